"""Paths as people write them, which may be no path at all: a hub name, a template's text, half a line of something.

``Path.is_dir`` and its like raise for a name that is too long, or in a folder that may not be looked into; for a text
of which nobody knows yet what it is, that means no more than that there is nothing there.
"""

from __future__ import annotations

import os
from pathlib import Path


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
