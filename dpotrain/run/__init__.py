"""The run: its folder, metrics file, checkpoints, signals and summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpotrain.run.session import train as train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Import ``train`` on first use: it brings torch, which the records of this package do not need."""
    if name == "train":
        from dpotrain.run.session import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
