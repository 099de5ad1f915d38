"""bitsandbytes' optimizers without its waits for the device. Imports bitsandbytes at the top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.optim import AdamW8bit, Lion32bit


class _Unsynchronized:
    """Starts the kernels of all weights without a wait after each.

    bitsandbytes (0.50 and before) synchronizes the device after every weight, of which LoRA has hundreds, each updated
    within microseconds. The kernels are queued on one stream in any case, which is what keeps their order. Paged
    moments, which the host may move, are another matter: their class keeps the waits.
    """

    @torch.no_grad()
    def step(self: Any, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights."""
        if not self.initialized:  # its first step moves state that was loaded to the device
            return super().step(closure)  # type: ignore[misc, no-any-return]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            for place, weight in enumerate(group["params"]):
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.init_state(group, weight, number, place)
                self.update_step(group, weight, number, place)
        return loss


class UnsynchronizedAdamW8bit(_Unsynchronized, AdamW8bit):  # type: ignore[misc]
    """AdamW with moments in 8 bits."""


class UnsynchronizedLion32bit(_Unsynchronized, Lion32bit):  # type: ignore[misc]
    """Lion with its moment in float32."""
