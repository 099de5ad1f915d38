"""What somebody elsewhere asks of a run, as files in its folder that its main process looks for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from dpotrain.core.controls import Controls

Request = Literal["save", "evaluate", "stop"]
_REQUESTS: tuple[Request, ...] = ("save", "evaluate", "stop")


def request(run: Path, what: Request) -> None:
    """Ask the run whose folder ``run`` is; it looks about once a second.

    Raises:
        OSError: nothing can be written there.
    """
    _path(run, what).touch()


def serve_requests(run: Path, controls: Controls) -> None:
    """Hand on what was asked since the last call."""
    for what in _REQUESTS:
        if _taken(_path(run, what)):
            if what == "save":
                controls.save()
            elif what == "evaluate":
                controls.evaluate()
            else:
                controls.stop("dpotrain watch")


def forget_requests(run: Path) -> None:
    """Drop what was asked of a process that is gone."""
    for what in _REQUESTS:
        _taken(_path(run, what))


def _taken(path: Path) -> bool:
    """Remove a request, and return whether there was one; one that cannot be removed would be served for ever."""
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _path(run: Path, what: Request) -> Path:
    return run / f".request-{what}"
