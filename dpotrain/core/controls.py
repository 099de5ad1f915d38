"""What a person or a callback asks of a run while it runs: to save, to evaluate, to stop."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event


class Controls:
    """Requests to a run, made from any thread and served between two steps; asking twice is asking once."""

    def __init__(self) -> None:
        self._save, self._evaluate = Event(), Event()
        self._stop = Event()
        self.stop_reason = ""
        """Who asked to stop; empty while nobody has."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called when somebody first asks to stop, in their thread."""

    def save(self) -> None:
        """Ask for a checkpoint after the present step."""
        self._save.set()

    def evaluate(self) -> None:
        """Ask for an evaluation after the present step."""
        self._evaluate.set()

    def stop(self, reason: str) -> None:
        """Ask the run to save its state and stop after the present micro-batch; ``reason`` says who asks."""
        if not self._stop.is_set():
            self.stop_reason = reason
            self._stop.set()
            self.on_stop()

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stop.is_set()

    def take(self) -> tuple[bool, bool]:
        """Return whether a checkpoint and an evaluation were asked for since the last call."""
        asked = self._save.is_set(), self._evaluate.is_set()
        for event, was_set in zip((self._save, self._evaluate), asked, strict=True):
            if was_set:
                event.clear()
        return asked
