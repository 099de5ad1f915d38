"""The command that resumes a run, with the options that started its processes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.run.folder.run_folder import RunFolder


def resume_command(path: Path, status: Mapping[str, Any]) -> str:
    """Return what to type to resume the run in a folder, in as many processes as its ``status.json`` says."""
    options = status.get("launch")
    known = isinstance(options, list) and all(isinstance(each, str) for each in options)
    recipe = str(RunFolder(path).recipe)
    return shlex.join(["dpotrain", "run", recipe, *(options if known else ()), "--resume"])
