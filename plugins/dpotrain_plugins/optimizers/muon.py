"""Muon: orthogonal updates of matrices, and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpotrain.plugin.api import RunError, Trained
from dpotrain_plugins.optimizers.decaying import Decay, DecayingOptimizer, adamw_lr

if TYPE_CHECKING:
    import torch

#: How much smaller updates are with "original": 0.2 times the root of the larger side, 5 to 25 in language models.
_ORIGINAL_IS_SMALLER = 10


class Muon(DecayingOptimizer):
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982), of torch: half of AdamW's state for most weights.

    It orthogonalizes the running mean of each hidden matrix's gradient: all singular values of an update are about 1.
    Embeddings, the language-model head, and whatever is not a matrix (norms, biases) are updated by AdamW, with the
    same `lr`. LoRA's factors are matrices.
    """

    name = "muon"

    class Options(DecayingOptimizer.Options):
        momentum: float = Field(0.95, ge=0, lt=1, description="Decay of the running mean (Nesterov's).")
        adjust_lr: Literal["match_rms_adamw", "original"] = Field(
            "match_rms_adamw",
            description='What an update is multiplied by besides `lr`. "match_rms_adamw": 0.2 times the root of the '
            'larger side, so that AdamW\'s learning rates and weight decay hold; "original": the root of rows over '
            "columns, at least 1, which takes a higher `lr`.",
        )
        adamw_weights: tuple[str, ...] = Field(
            ("*embed*", "*wte*", "*wpe*", "*lm_head*"),
            description="Patterns of the names of matrices that AdamW updates.",
        )
        betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of AdamW's two moments.")
        eps: float = Field(1e-8, gt=0, description="Added to the root of AdamW's second moment.")

    options: Options

    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        from dpotrain_plugins.optimizers.muon_with_adamw import MuonWithAdamW

        options = self.options
        hidden = {name: weight for name, weight in weights.items() if self._is_hidden(name, weight.ndim)}
        if not hidden:
            raise RunError(
                f"muon updates hidden matrices, and there is none among the {len(weights)} trained weights "
                f"({', '.join(list(weights)[:3])}).\n"
                'Set optimizer.use = "adamw", or shorten optimizer.adamw_weights.'
            )
        return MuonWithAdamW(
            self._groups(hidden),
            self._groups({name: weight for name, weight in weights.items() if name not in hidden}),
            lr=options.lr,
            momentum=options.momentum,
            adjust_lr=options.adjust_lr,
            betas=options.betas,
            eps=options.eps,
        )

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Count a running mean of hidden matrices, and AdamW's state of other weights, in each weight's dtype."""
        return sum(
            weight.bytes if self._is_hidden(weight.name, len(weight.shape)) else 2 * weight.bytes + 4
            for weight in weights
        )

    def usual_lr(self, adapter: bool) -> tuple[float, float]:
        low, high = adamw_lr(adapter)
        return (low, high * _ORIGINAL_IS_SMALLER if self.options.adjust_lr == "original" else high)

    def _is_hidden(self, name: str, dimensions: int) -> bool:
        return dimensions == 2 and not any(
            fnmatchcase(name, pattern) for pattern in self.options.adamw_weights
        )
