"""Texts that may be a path or something else: a hub name, the text of a template."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


def user_path(text: str) -> Path:
    """Return the path that a text names, with ``~`` expanded where that home folder exists."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return Path(text)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at the path. Unlike ``Path.is_dir`` it does not raise for a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether there is a file at the path; it does not raise either."""
    return os.path.isfile(path)  # noqa: PTH113


def cache_folder(wanted: Path | Literal["auto"] | None) -> Path | None:
    """Return the folder that ``run.cache_dir`` means, which may not exist yet; None for no cache."""
    if wanted is None:
        return None
    if wanted != "auto":
        return wanted.expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of these variables says to ignore a relative path.
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return base / "dpotrain"
