"""What a distribution is called. A module of its own, since ``dpotrain --help`` asks and imports nothing heavy."""

from __future__ import annotations

import functools
from importlib.metadata import Distribution


@functools.cache
def name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return both, read once for each object: it parses its metadata anew for every question."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]
