"""Installed packages: names and versions. Nothing heavy is imported, since ``dpotrain --help`` asks."""

from __future__ import annotations

import functools
import importlib.metadata
from importlib.metadata import Distribution


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
