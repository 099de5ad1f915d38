"""Divergences between policy and reference other than the reverse KL, as functions of a log-ratio.

DPO follows from a reward that is maximized under a penalty, the f-divergence of the policy from the reference. Its
implicit reward is ``beta * f'(u)`` up to a term of the prompt alone, with ``u = pi / ref`` (Wang et al. 2023,
arXiv:2309.16240, theorem 1). With ``x = log u``, and constants left out since only differences count:

====================  ==========================  ==============================================================
``reverse-kl``        ``x``                       DPO's own
``forward-kl``        ``-exp(-x)``
``jensen-shannon``    ``log sigmoid(x)``          ``f'(u) = log(2 u / (1 + u))``
``alpha``             ``(1 - exp(-alpha x)) / alpha``  between reverse KL (alpha to 0) and forward KL (alpha to 1)
``chi-squared``       ``x + exp(x)``              the mix of KL and chi-squared of Huang et al. 2024, arXiv:2407.13399
====================  ==========================  ==============================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Divergence = Literal["reverse-kl", "forward-kl", "jensen-shannon", "alpha", "chi-squared"]

#: Beyond this the exponential goes on as its tangent, so that float32 stays finite and a gradient is left; that of the
#: chi-squared divergence ends there, as its paper clips it, and leaves ``x``.
LARGEST_EXPONENT = 20.0


def reward_of(ratio: torch.Tensor, divergence: Divergence, alpha: float | None) -> torch.Tensor:
    """Return ``f'`` of log-ratios, of their shape, as the module's table has it; ``alpha`` is that of "alpha"."""
    from torch.nn.functional import logsigmoid

    if divergence == "forward-kl":
        return -_exp(-ratio)
    if divergence == "jensen-shannon":
        return logsigmoid(ratio)
    if divergence == "alpha":
        assert alpha is not None
        return (1 - _exp(-alpha * ratio)) / alpha
    if divergence == "chi-squared":
        return ratio + ratio.clamp(max=LARGEST_EXPONENT).exp()
    return ratio


def _exp(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(max=LARGEST_EXPONENT).exp() * (1 + (x - LARGEST_EXPONENT).clamp(min=0))
