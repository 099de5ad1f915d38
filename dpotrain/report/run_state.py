"""Whether a run still runs, and how it ended where it does not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from dpotrain.core import records
from dpotrain.core.records import Outcome
from dpotrain.report.following import Status

State = Literal["running", "finished", "stopped", "interrupted", "failed", "killed"]


def state_of(outcome: Outcome | None, status: Mapping[str, Any], now: float | None = None) -> State:
    """Return the state of a run by its summary and its ``status.json``.

    A run without a summary has not ended by itself: its process works on, or was killed. ``now`` is in seconds since
    1970.
    """
    if outcome is not None:
        return outcome.status
    found = Status(status)
    if found.state in get_args(records.Status):  # its summary could not be written
        return cast(records.Status, found.state)
    gone = found.is_gone(time.time() if now is None else now)
    return "running" if found.state == "running" and not gone else "killed"
