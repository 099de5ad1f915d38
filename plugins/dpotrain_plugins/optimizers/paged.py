"""bitsandbytes' paged AdamW, whose state is paged after a resume, too. Imports bitsandbytes at the top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.optim import PagedAdamW8bit


class ResumablePagedAdamW8bit(PagedAdamW8bit):  # type: ignore[misc]
    """Loads its moments into pages: bitsandbytes would move all of them to the device, where they then stay."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict, move_to_device=False)
        for weight, state in self.state.items():
            for name, value in state.items():
                if name in ("state1", "state2"):
                    state[name] = self.get_state_buffer(weight, dtype=value.dtype).copy_(value)
                elif isinstance(value, torch.Tensor):
                    state[name] = value.to(weight.device)
