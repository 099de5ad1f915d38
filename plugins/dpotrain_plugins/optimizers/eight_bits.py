"""bitsandbytes' AdamW in 8 bits, in little memory on a CPU. Imports bitsandbytes at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import optimizer_update_8bit_blockwise

from dpotrain_plugins.optimizers.unsynchronized import UnsynchronizedAdamW8bit

#: Numbers that a CPU updates at once, a multiple of the blocks of 256; their float32 copies stay in the cache.
BATCH_NUMBERS = 1 << 18
_BLOCK = 256


class BatchedAdamW8bit(UnsynchronizedAdamW8bit):
    """Updates a weight on a CPU in batches of its blocks, with the same results.

    There, bitsandbytes computes with float32 copies of weight, gradient and moments, and temporaries of the same size:
    of an embedding, more than the moments of all weights take. On a GPU a kernel does without.

    Moments are allocated before the first step, so that they don't come to lie between its freed activations.
    """

    def __init__(self, params: Sequence[dict[str, Any]], **settings: Any) -> None:
        super().__init__(params, **settings)
        for number, group in enumerate(self.param_groups):
            for place, weight in enumerate(group["params"]):
                self.init_state(group, weight, number, place)

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: torch.nn.Parameter, gindex: int, pindex: int) -> None:
        """Update a weight that has a gradient."""
        state = self.state[p]
        if p.device.type != "cpu" or state["state1"].dtype != torch.uint8 or p.grad is None:
            super().update_step(group, p, gindex, pindex)
            return
        p.data = p.data.contiguous()
        state["step"] += 1
        blocks = ("absmax1", "absmax2")
        numbers = [p.data, p.grad.contiguous(), state["state1"], state["state2"]]
        parts = [each.view(-1).split(BATCH_NUMBERS) for each in numbers]
        parts += [state[name].split(BATCH_NUMBERS // _BLOCK) for name in blocks]
        for weight, gradient, first, second, scale1, scale2 in zip(*parts, strict=True):
            optimizer_update_8bit_blockwise(
                "adam",
                gradient,
                weight,
                first,
                second,
                *group["betas"],
                0.0,  # what other optimizers have in the place of a third beta, and of alpha
                0.0,
                group["eps"],
                state["step"],
                group["lr"],
                state["qmap1"],
                state["qmap2"],
                scale1,
                scale2,
                group["weight_decay"],
            )
