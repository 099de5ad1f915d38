"""Reads what Trackio's local store has, with Trackio's own reader."""

from pathlib import Path
from typing import Any


def rows(project: str, folder: Path) -> list[dict[str, Any]]:
    """Return what was logged for the run in ``folder``, in the order in which it was, without times."""
    from trackio import SQLiteStorage

    logs = SQLiteStorage.get_logs(project, run=None, run_id=kept_id(folder))
    return [{name: value for name, value in row.items() if name != "timestamp"} for row in logs]


def config(project: str, folder: Path) -> dict[str, Any]:
    from trackio import SQLiteStorage

    return SQLiteStorage.get_run_config(project, run_id=kept_id(folder)) or {}


def kept_id(folder: Path) -> str:
    return (folder / "trackio" / "run-id.txt").read_text().strip()
