"""Turning dropout off temporarily, without ``eval()``.

``eval()`` does more: 4-bit layers on some CPUs repack their weights in it, and pass no gradient afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from dpotrain.engine.scoring.scorer import causal_lm

#: Parts of the names of settings that draw random numbers: attention_dropout, attn_pdrop, router_jitter_noise, …
_RANDOM_SETTINGS = ("drop", "jitter")


def drops_out(model: nn.Module) -> bool:
    """Whether any dropout module of the model is active."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in model.modules())


def may_draw(policy: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers, in dropout modules or elsewhere.

    Attention dropout and the jitter of routers are no modules, but settings of a configuration; what models of other
    origin than transformers do is not known.
    """
    model = causal_lm(policy)
    settings = model.config.get_text_config().to_dict()
    set_to_draw = any(
        isinstance(value, float) and value > 0
        for name, value in settings.items()
        if any(word in name for word in _RANDOM_SETTINGS)
    )
    return drops_out(policy) or set_to_draw or not type(model).__module__.startswith("transformers.")


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Set the probability of every dropout module to zero inside the context."""
    active = [
        (module, module.p)
        for module in model.modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p
    ]
    for module, _ in active:
        module.p = 0.0
    try:
        yield
    finally:
        for module, probability in active:
            module.p = probability
