"""The states of all random number generators that a run uses, as tensors and numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class RandomState:
    """The states of Python, numpy, torch and, where there is one, this process's CUDA device."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None

    @classmethod
    def capture(cls) -> RandomState:
        """Copy the current states."""
        return cls(
            python=random.getstate(),
            numpy=dict(np.random.get_state(legacy=False)),
            torch_cpu=torch.get_rng_state(),
            torch_cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        )

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch_cuda)

    def as_json(self) -> dict[str, Any]:
        """Return the states as JSON data; tensors of bytes become hexadecimal text."""
        version, words, gauss = self.python
        state = self.numpy["state"]
        return {
            "python": [version, list(words), gauss],
            "numpy": {**self.numpy, "state": {**state, "key": [int(word) for word in state["key"]]}},
            "torch_cpu": self.torch_cpu.numpy().tobytes().hex(),
            "torch_cuda": None if self.torch_cuda is None else self.torch_cuda.numpy().tobytes().hex(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RandomState:
        """Undo :meth:`as_json`."""
        version, words, gauss = data["python"]
        state = data["numpy"]["state"]
        return cls(
            python=(version, tuple(words), gauss),
            numpy={**data["numpy"], "state": {**state, "key": np.array(state["key"], np.uint32)}},
            torch_cpu=_bytes(data["torch_cpu"]),
            torch_cuda=None if data["torch_cuda"] is None else _bytes(data["torch_cuda"]),
        )


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch, CUDA devices included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
