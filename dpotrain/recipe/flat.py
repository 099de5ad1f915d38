"""A resolved recipe as single keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpotrain.core.masking import mask_data


def flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, without secrets: ``("loss.beta", 0.1)``."""
    for key, value in _flat(document, ""):
        yield key, mask_data(value)


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
