"""The cache of tokenized splits, in a folder that all runs of a user share.

An entry is a folder named by a hash of its key. It holds columns (see :mod:`dpotrain.data.tokens.column_files`) and a
manifest with their sizes and hashes, and is checked when it is opened. Only damaged entries are ever removed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpotrain.core.atomic import sync_file, sync_folder
from dpotrain.core.hashing import hash_file, hash_text
from dpotrain.core.reporter import Reporter
from dpotrain.core.write_errors import WriteError, writing
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.tokenize_split import SplitInfo, TokenizedSplit, open_split

_MANIFEST = "manifest.json"


class Damaged(Exception):  # noqa: N818  # it is the entry that is named
    """An entry differs from what was written; the message says how."""


class TokenCache:
    """Tokenized splits in a folder, which is made with the first entry, accessible to its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(
        self, key: Mapping[str, Any], build: Callable[[Path], SplitInfo], reporter: Reporter
    ) -> TokenizedSplit:
        """Return the split of this key; where there is no entry, one process builds it and others wait for its lock.

        ``build`` fills an empty folder with columns.

        Raises WriteError where there is no entry and the folder cannot be written, and what ``build`` raises.
        """
        described = json.dumps(key, sort_keys=True)
        path = self._folder / hash_text(described)
        try:
            found = _open(path)
        except Damaged:
            found = None  # reported and rebuilt below, by the process that gets the lock
        if found is not None:
            return found
        with self._lock(path, reporter):
            try:
                found = _open(path)
            except Damaged as fault:
                reporter.warn(f"the tokenized data in {path} is damaged ({fault}) and is rebuilt")
            if found is None:
                found = _make(path, described, build)
        return found

    @contextmanager
    def _lock(self, path: Path, reporter: Reporter) -> Iterator[None]:
        with writing(self._folder):
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"), mode=0o600)
        try:
            with writing(self._folder):
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    with reporter.phase("waiting for another process to tokenize the same data", None):
                        lock.acquire()
        except NotImplementedError as error:
            raise WriteError(self._folder, "its file system has no file locks") from error
        try:
            yield
        finally:
            lock.release()


def _make(path: Path, described: str, build: Callable[[Path], SplitInfo]) -> TokenizedSplit:
    """Build an entry under a temporary name and rename it. The lock is held."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir(mode=0o700)
    try:
        made = build(partial)
        with writing(path):
            _seal(partial, described, made)
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_split(path, made)


def _seal(folder: Path, described: str, made: SplitInfo) -> None:
    """Sync the columns to disk and write the manifest."""
    files = {}
    for path in sorted(folder.glob("*.npy")):
        sync_file(path)
        files[path.name] = {"size": path.stat().st_size, "blake2b": hash_file(path)}
    data = {
        "identity": json.loads(described),
        "files": files,
        "largest_token": made.largest_token,
        "columns": made.columns,
        "report": dataclasses.asdict(made.report),
    }
    content = json.dumps(data, indent=1)
    (folder / _MANIFEST).write_text(f"{hash_text(content)}\n{content}\n", encoding="utf-8")
    sync_file(folder / _MANIFEST)


def _open(path: Path) -> TokenizedSplit | None:
    """Return a valid entry, or None where there is none; raise Damaged where it differs from what was written."""
    try:
        text = (path / _MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        if path.is_dir():
            raise Damaged(f"{_MANIFEST} is missing") from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{_MANIFEST} cannot be read") from error
    seal, _, content = text.rstrip("\n").partition("\n")
    if seal != hash_text(content):
        raise Damaged(f"{_MANIFEST} has changed")
    manifest = json.loads(content)
    for name, expected in manifest["files"].items():
        try:
            size = (path / name).stat().st_size
            if size != expected["size"]:
                raise Damaged(f"{name} has {size} bytes instead of {expected['size']}")
            if hash_file(path / name) != expected["blake2b"]:
                raise Damaged(f"{name} has changed")
        except OSError as error:
            raise Damaged(f"{name} cannot be read") from error
    report, columns = SplitReport.restored(manifest["report"]), tuple(manifest.get("columns", ()))
    return open_split(path, SplitInfo(report, manifest["largest_token"], columns=columns))
