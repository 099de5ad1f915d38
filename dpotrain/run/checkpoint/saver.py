"""Checkpoints are written by a thread of their own: training waits for the copy to host memory, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from dpotrain.engine.memory.device_memory import free_memory
from dpotrain.engine.memory.planner import COPY_ROOM
from dpotrain.run.checkpoint import files
from dpotrain.run.checkpoint.snapshot import Checkpoint, Snapshot


class Saver:
    """Writes one checkpoint at a time and removes those that it replaces."""

    def __init__(self, folder: Path, prune: Callable[[], None]) -> None:
        """``prune`` is called after every checkpoint, wherever that was written."""
        self.folder = folder
        self._prune = prune
        self._thread: threading.Thread | None = None
        self._saved: list[Path] = []
        self._error: Exception | None = None

    def save(self, checkpoint: Checkpoint, *, in_background: bool) -> None:
        """Write a checkpoint after the one being written, or begin to.

        Where the host has no room for a copy, the checkpoint is written before this returns, whatever was asked.

        Raises:
            RunError: this one or the one before could not be written.
        """
        self.wait()
        snapshot = Snapshot.of(checkpoint)
        if not in_background or free_memory(torch.device("cpu")) < COPY_ROOM * snapshot.live_bytes:
            self._write(snapshot)
            self._raise()
            return
        # A daemon, because a second Ctrl-C does not wait for it; what is then half written has no checkpoint's name.
        self._thread = threading.Thread(
            target=self._write, args=[snapshot.copied()], name="checkpoint", daemon=True
        )
        self._thread.start()

    def saved(self) -> list[Path]:
        """Return the checkpoints that were completed since the last call.

        Raises:
            RunError: the last one could not be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.wait()
        done, self._saved = self._saved, []
        return done

    def wait(self) -> None:
        """Return once nothing is being written.

        Raises:
            RunError: the last one could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            path = files.save(self.folder, snapshot)
            self._prune()
        except Exception as error:  # raised in the thread that trains
            self._error = error
        else:
            self._saved.append(path)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
