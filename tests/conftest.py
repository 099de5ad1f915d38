"""What holds for every test: no network, nothing written outside temporary folders, no GPU asked for in vain."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Before any library is imported, since they read these once. Processes that tests start inherit them.
_CACHE = tempfile.TemporaryDirectory(prefix="dpotrain-tests-")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HOME=_CACHE.name,
    XDG_CACHE_HOME=_CACHE.name,
    HF_DATASETS_CACHE=str(Path(_CACHE.name) / "datasets"),
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
)
# What a person's own machine may have set must not decide a test.
for _name in (
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "ACCELERATE_MIXED_PRECISION",
):
    os.environ.pop(_name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``cuda`` where there is no GPU; torch is only imported to find out if there are any."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
