"""What a run will take, foretold: peak memory and tokens a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dpotrain.engine.memory.arithmetic import Arithmetic, product_rate

if TYPE_CHECKING:
    from dpotrain.data.tokens.tokenized import TokenizedPairs

#: Share of the speed of a large matrix product that whole steps reach, by device and precision. CPU: measured with
#: SmolLM2-135M; in bfloat16 its matrix units are so fast that what is around the products takes most of the time.
#: CUDA: large models are trained at 0.4 to 0.5 of the peak (PaLM, arXiv:2204.02311, table 3), of which a large product
#: by itself reaches about 0.75.
EFFICIENCY = {
    ("cpu", "fp32"): 0.6,
    ("cpu", "bf16"): 0.2,
    ("cuda", "fp32"): 0.6,
    ("cuda", "bf16"): 0.6,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What one pass over the pairs computes."""

    tokens: int
    """Tokens that go through the layers."""
    scored: int
    """Tokens whose log-probs are computed."""
    seen: float
    """Pairs of tokens of which one attends to the other."""

    @classmethod
    def of(cls, pairs: TokenizedPairs, padded: bool) -> Workload:
        """Count; a padded prompt goes through the layers twice."""
        prompt = pairs.prompt_lengths.astype(np.float64)
        chosen, rejected = (
            pairs.chosen_lengths.astype(np.float64),
            pairs.rejected_lengths.astype(np.float64),
        )
        tokens = prompt.sum() * (2 if padded else 1) + chosen.sum() + rejected.sum()
        first = prompt + chosen
        second = rejected * (2 * prompt + rejected) + (prompt**2 if padded else 0)
        seen = (first**2).sum() / 2 + second.sum() / 2
        return cls(int(tokens), int(chosen.sum() + rejected.sum()), float(seen))

    def forward(self, arithmetic: Arithmetic) -> float:
        """Return the floating-point operations of scoring the pairs once, without gradients."""
        return arithmetic.forward(self.tokens, self.scored, self.seen)

    def flops(self, arithmetic: Arithmetic, reference_passes: int, again: float) -> float:
        """Return the floating-point operations of training on the pairs once."""
        return arithmetic.flops(
            self.tokens, self.scored, self.seen, reference_passes=reference_passes, again=again
        )


def sustained_rate(device: torch.device, precision: str) -> float:
    """Return the floating-point operations a second that steps of that precision reach on the device."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return EFFICIENCY[device.type, precision] * product_rate(device, dtype)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was foretold when the run began."""

    peak_memory_mb: float
    tokens_per_second: float

    def beside(self, peak_memory_mb: float, tokens_per_second: float) -> dict[str, float]:
        """Return plain data for summary.json: what was foretold, and what was measured."""
        return {
            "peak_memory_mb_predicted": self.peak_memory_mb,
            "peak_memory_mb_measured": peak_memory_mb,
            "tokens_per_second_predicted": self.tokens_per_second,
            "tokens_per_second_measured": tokens_per_second,
        }
