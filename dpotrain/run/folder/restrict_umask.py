"""Files that nobody else can write to, and that are no links to somewhere else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dpotrain.core.errors import RunError


@contextmanager
def restrict_umask() -> Iterator[None]:
    """Make files and folders that only their owner can write to, however loose the process's umask is.

    A stricter umask stays as it is.
    """
    before = os.umask(0o077)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


def refuse_links(files: Iterable[Path]) -> None:
    """Raise a RunError for a file that is a link: appending to it would change a file somewhere else."""
    for file in files:
        if file.is_symlink():
            raise RunError(
                f"{file} is a link to {file.readlink()}, and a run writes to files of its own only.\n"
                "Remove the link, or choose another folder: --set run.output_dir=…"
            )
