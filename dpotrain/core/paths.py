"""Paths as people write them, which may be no path at all: a hub name, a template's text, half a line of something.

``Path.is_dir`` and its like raise for a name that is too long, or in a folder that may not be looked into; for a text
of which nobody knows yet what it is, that means no more than that there is nothing there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


def user_path(text: str) -> Path:
    """Return the path that a text names, with ``~`` as a home folder where there is that one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of nobody on this machine
        return Path(text)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at the path."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether there is a file at the path."""
    return os.path.isfile(path)  # noqa: PTH113


def cache_folder(wanted: Path | Literal["auto"] | None) -> Path | None:
    """Return the folder that ``run.cache_dir`` means, made or not; None where nothing is to be kept."""
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
