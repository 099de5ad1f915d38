"""Installed packages: names and versions. Nothing heavy is imported, since ``dpotrain --help`` asks."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import sys
from contextlib import suppress
from importlib.metadata import Distribution
from threading import Thread


@functools.cache
def name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return both, read once for each object, which parses its metadata again for every access."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def package_version(package: str) -> str | None:
    """Return the version that is installed, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_transformers() -> None:
    """Import torch and what every model of transformers needs, in a process that does not have torch yet.

    Nothing is garbage collected meanwhile, and what exists afterwards, 400,000 objects that stay, is left out of
    later collections: searching these again and again takes a fifth of the time of the imports, and 0.2 s in each full
    collection later on. Where torch is imported already, the objects of whoever did that stay as they are.
    """
    if "torch" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("transformers.modeling_utils")  # which imports torch
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def import_apart(module: str) -> None:
    """Import a module in a thread of its own, if it is not there yet; one that cannot be imported raises later.

    An error that a package catches and keeps while it is imported keeps the frames of whoever imported it first, and
    with them the model that they hold.
    """

    def load() -> None:
        with suppress(Exception):
            importlib.import_module(module)

    if module not in sys.modules:
        thread = Thread(target=load, name=f"import {module}")
        thread.start()
        thread.join()
