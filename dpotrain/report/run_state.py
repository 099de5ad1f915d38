"""Whether a run still runs, and how it ended where it does not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from dpotrain.core.records import Outcome, Status

State = Literal["running", "finished", "stopped", "interrupted", "failed", "killed"]

#: Seconds without a sign of life after which a run on another machine counts as killed. One micro-batch takes less.
_SILENT = 1800.0


def state_of(
    outcome: Outcome | None, status: Mapping[str, Any], owner: Mapping[str, Any], now: float | None = None
) -> State:
    """Return the state of a run by its summary, its ``status.json`` and the owner of its lock.

    A run without a summary has not ended by itself: its process works on, or was killed. ``now`` is in seconds since
    1970.
    """
    if outcome is not None:
        return outcome.status
    ended: Any = status.get("state")
    if ended in get_args(Status):  # its summary could not be written
        return cast(Status, ended)
    pid, host = owner.get("pid"), owner.get("host")
    if type(pid) is not int:
        return "killed"  # nobody owns the folder
    if host == socket.gethostname():
        return "running" if _exists(pid) else "killed"
    updated: Any = status.get("updated")
    if type(updated) not in (int, float):
        return "running"  # the lock's owner is elsewhere, and nothing says that it is gone
    return "running" if (time.time() if now is None else now) - updated < _SILENT else "killed"


def _exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True
