"""Where the tests of Triton kernels run: on a GPU, or on CPU tensors in a process of Triton's interpreter."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def import_kernels(name: str) -> ModuleType:
    """Import a module of ``dpotrain.engine.kernels``, or skip the test module that asks for it."""
    if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip(
            "run in Triton's interpreter by tests/engine/test_interpreter.py", allow_module_level=True
        )
    return importlib.import_module(f"dpotrain.engine.kernels.{name}")
