"""Where tokenized data and reference log-probs lie for later runs to find."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


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
