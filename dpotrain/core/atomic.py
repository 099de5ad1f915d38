"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file aside, bring it to the disk, and rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # What a kill left; and no link that would lead the text somewhere else.
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write JSON as :func:`write_text` does."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of ``path`` if the block ends well, and goes if not.

    A folder that is already at ``path`` is replaced.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in sorted(aside.rglob("*")):
            if file.is_file():
                sync_file(file)
        sync_folder(aside)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            aside.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what kills left half written or half removed in a folder that no other run writes to."""
    for path in [*folder.glob(".*.partial"), *folder.glob(".*.old")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
