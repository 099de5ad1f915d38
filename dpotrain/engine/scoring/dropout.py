"""Turning dropout off temporarily, without ``eval()``.

``eval()`` does more: 4-bit layers on some CPUs repack their weights in it, and pass no gradient afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def drops_out(model: nn.Module) -> bool:
    """Whether any dropout module of the model is active."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in model.modules())


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
