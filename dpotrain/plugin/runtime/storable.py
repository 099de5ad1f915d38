"""The check that a checkpoint can hold a component's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpotrain.plugin.api.returns import described

_HELD = "tensors, numbers, texts, None, and lists and mappings of these"


def not_storable(state: object) -> str:
    """Return what of a component's state a checkpoint cannot hold, and what it can; "" where it can hold all of it."""
    if isinstance(state, Mapping):
        fault = f"a mapping that holds {odd}" if (odd := _odd(state)) else ""
    else:
        fault = described(state)
    return f"{fault}; it must return a mapping from texts to {_HELD}" if fault else ""


def _odd(value: Any) -> str:
    import torch

    if value is None or isinstance(value, (torch.Tensor, str, bool, int, float)):
        return ""
    if isinstance(value, Mapping):
        keys = (f"the key {key!r}, which is not a text" for key in value if not isinstance(key, str))
        return next(keys, "") or next(filter(None, map(_odd, value.values())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_odd, value)), "")
    return described(value)
