"""The command that resumes a run, with the options that started its processes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.run.folder.run_folder import RunFolder


def resume_command(path: Path, status: Mapping[str, Any]) -> str:
    """Return what to type to resume the run in a folder, in as many processes as its ``status.json`` says."""
    found = status.get("launch")
    # The file may be damaged, or of another version.
    options = found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []
    return shlex.join(["dpotrain", "run", str(RunFolder(path).recipe), *options, "--resume"])
