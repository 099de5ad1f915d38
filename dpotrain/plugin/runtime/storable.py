"""The check that a checkpoint can hold a component's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def not_storable(state: object) -> str:
    """Return the part of a component's state that a checkpoint cannot hold, or ""."""
    if not isinstance(state, Mapping):
        return f"{type(state).__name__}, which is not a mapping,"
    return _odd(state)


def _odd(value: Any) -> str:
    import torch

    if value is None or isinstance(value, (torch.Tensor, str, bool, int, float)):
        return ""
    if isinstance(value, Mapping):
        keys = (
            f"a mapping with the key {key!r}, which is not a text,"
            for key in value
            if not isinstance(key, str)
        )
        return next(keys, "") or next(filter(None, map(_odd, value.values())), "")
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_odd, value)), "")
    return f"an object of type {type(value).__name__}, which a checkpoint cannot hold,"
