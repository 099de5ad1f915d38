"""Atomic writes: a file or folder is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file under a temporary name, sync it to disk unless ``sync`` is False, and rename it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # One left by a killed process; and no link that would redirect the text.
        partial.unlink(missing_ok=True)
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def write_json(path: Path, data: Any) -> None:
    """Write JSON as :func:`write_text` does."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, which replaces ``path`` if the block succeeds and is removed if not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            if file.is_file():
                sync_file(file)
        sync_folder(partial)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            partial.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove partial files and folders of killed processes in a folder that no other run writes to."""
    for path in [*folder.glob(".*.partial"), *folder.glob(".*.old")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Sync a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Sync a folder's entries to disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
