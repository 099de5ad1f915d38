"""The check's own plugin, and on a machine where dpotrain is not installed the checkout itself, as if installed."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make_importable(folder: Path) -> None:
    """Write the metadata of what must be found by entry point into ``folder``, for this process and its children."""
    paths = [folder]
    _distribution(folder, "dpotrain-gpu-check", "0", {"dpotrain": {"gpu-check": "tests.gpu.models"}})
    try:
        importlib.metadata.version("dpotrain")
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        from dpotrain.core.version import __version__

        _distribution(folder, "dpotrain", __version__, project["entry-points"])
        paths.append(ROOT / "plugins")
    paths.append(ROOT)
    sys.path[:0] = map(str, paths)
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *([known] if known else [])])
    importlib.invalidate_caches()


def _distribution(
    folder: Path, name: str, version: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
