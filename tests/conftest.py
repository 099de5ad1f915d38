"""What holds for every test: no network, nothing written outside temporary folders, no GPU asked for in vain."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.run.forked import Forked

#: Memory that looks like a disk, where Linux has it: thousands of small files are synced in the tests.
_IN_MEMORY = Path("/dev/shm")


def _is_roomy(folder: Path) -> bool:
    """Whether the tests' files fit and programs may be loaded from there (containers often give 64 MB and noexec)."""
    return (
        os.access(folder, os.W_OK)
        and not os.statvfs(folder).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(folder).free >= 4 * 2**30
    )


if "TMPDIR" not in os.environ and _IN_MEMORY.is_dir() and _is_roomy(_IN_MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = str(_IN_MEMORY)

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
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # every core has a worker of its own
# What a person's own machine may have set must not decide a test.
for _name in (
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "ACCELERATE_MIXED_PRECISION",
):
    os.environ.pop(_name, None)

#: The fixtures that authors of plugins have, and the order of the files.
pytest_plugins = ["dpotrain.testing", "tests.durations"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-snapshots",
        action="store_true",
        help="Write what tests compare with anew, then look at the diff.",
    )


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name in the folder ``snapshots`` beside the test."""

    def compare(name: str, text: str) -> None:
        path = request.path.parent / "snapshots" / name
        if request.config.getoption("--write-snapshots"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), (
            f"{path} is missing; python -m pytest --write-snapshots {request.path} writes it"
        )
        assert text == path.read_text(encoding="utf-8"), (
            f"{path.name} differs; if that is meant: python -m pytest --write-snapshots {request.path}"
        )

    return compare


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Return a server that has imported everything and starts ``dpotrain`` in a moment."""
    from tests.run.forked import Forked

    server = Forked()
    yield server
    server.close()


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the engine take this processor for one "with bfloat16" products, or one "without" them."""
    import torch
    import transformers.modeling_utils  # noqa: F401  # it looks at the operator as it is imported

    def of_a_kind(kind: str) -> None:
        there = {"with bfloat16": True, "without": False}[kind]
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there)

    return of_a_kind


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Take what is there out of garbage collection: with all libraries imported, each collection costs 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_measured() -> None:
    """Forget how fast the runs of other tests were, by which a plan would foretell."""
    Path(_CACHE.name, "dpotrain", "measured.json").unlink(missing_ok=True)


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_left_behind() -> Iterator[None]:
    """End what wandb keeps running for a process; left alone for long, it ends by itself, and wandb misses it."""
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``cuda`` where there is no GPU; torch is only imported to find out if there are any."""
    # Read by now, here and by xdist's workers, and not meant for the suites of packages that tests run.
    os.environ.pop("PYTEST_ADDOPTS", None)
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
