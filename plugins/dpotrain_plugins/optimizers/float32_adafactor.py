"""transformers' Adafactor, whose state stays in float32 when it is loaded. Imports transformers at the top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.optimization import Adafactor


class Float32Adafactor(Adafactor):  # type: ignore[misc]
    """Keeps its moments in float32 whatever the dtype of the weights: torch casts to theirs when it loads a state.

    Where weights are held in bfloat16, a resumed run would go on from rounded moments.
    """

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, state in state_dict["state"].items():
            weight = weights[number]
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    self.state[weight][name] = value.to(weight.device, copy=True)
