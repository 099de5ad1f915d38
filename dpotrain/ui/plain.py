"""The run as plain lines, for logs, pipes and batch jobs: ``key=value``, one event a line, no colours."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO

from dpotrain.core.formats import duration, learning_rate, number, printable, rate
from dpotrain.core.records import CheckpointRecord, Outcome, Record, StepRecord
from dpotrain.core.reporter import Advance
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.pace import Pace
from dpotrain.ui.summary import summary_text

#: Seconds between progress lines of a phase: the shorter time where at least a tenth was done, else the longer.
PHASE_SECONDS = 10.0
PHASE_SHARE = 0.1
PHASE_SECONDS_AT_LATEST = 60.0

#: What a train line shows, in this order: the metric, its key on the line, and how it is written.
_TRAIN_FIELDS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("loss", "loss", number),
    ("rewards/accuracies", "accuracy", number),
    ("rewards/margins", "margin", number),
    ("rewards/chosen", "chosen", number),
    ("rewards/rejected", "rejected", number),
    ("grad_norm", "grad_norm", number),
    ("learning_rate", "lr", learning_rate),
    ("pairs_per_second", "pairs/s", lambda value: rate(value).replace(",", "")),
    ("tokens_per_second", "tokens/s", lambda value: rate(value).replace(",", "")),
    ("peak_memory_mb", "memory_mb", lambda value: f"{value:.0f}"),
)
_EVAL_KEYS = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


class PlainReporter:
    """Writes lines to a stream. A stream that fails does not end the run."""

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._pace = Pace()
        self._first_evaluation: Mapping[str, float] | None = None
        self._said_chosen_fall = False

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def started(self, title: str, info: dict[str, str]) -> None:
        """Write the title and one line for each entry of ``info``."""
        self._line(title)
        for label, value in info.items():
            self._line(f"{label}: {value}")

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Write a phase's start, its progress now and then, and its end."""
        begun = spoken = self._clock()
        done = spoken_at = 0
        of = "" if total is None else f"/{total}"
        self._line(f"{name}: start" + ("" if total is None else f" total={total}"))

        def advance(count: int = 1) -> None:
            nonlocal done, spoken, spoken_at
            done += count
            now = self._clock()
            much = total is not None and done - spoken_at >= PHASE_SHARE * total
            if 0 < done != total and now - spoken >= (PHASE_SECONDS if much else PHASE_SECONDS_AT_LATEST):
                eta = "" if total is None else f" eta={duration((total - done) * (now - begun) / done)}"
                self._line(f"{name}: {done}{of}{eta}")
                spoken, spoken_at = now, done

        try:
            yield advance
        except BaseException:
            self._line(f"{name}: interrupted at {done}{of} after {duration(self._clock() - begun)}")
            raise
        self._line(
            f"{name}: done{f' {done}{of}' if done or total is not None else ''} in {duration(self._clock() - begun)}"
        )

    def note(self, text: str) -> None:
        """Write ``note: …`` on every line of the text."""
        self._marked("note", text)

    def warn(self, text: str) -> None:
        """Write ``warning: …`` on every line of the text."""
        self._marked("warning", text)

    def step(self, record: StepRecord) -> None:
        """Keep the step for the time left; lines are written for logged records."""
        self._pace.add(record)

    def logged(self, record: Record) -> None:
        """Write a train record as ``step 10/470 loss=… …``, an eval record as ``eval step=… loss=… …``."""
        if record.kind == "eval":
            self._evaluation(record)
            return
        total = "" if self._pace.last is None else f"/{self._pace.last.total_steps}"
        fields = [
            f"{key}={write(record.metrics[metric])}"
            for metric, key, write in _TRAIN_FIELDS
            if metric in record.metrics
        ]
        if self._pace.last is not None:
            fields.append(f"eta={duration(self._pace.seconds_left)}")
        self._line(" ".join([f"step {record.step}{total}", *fields]))

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Write ``checkpoint step=… path=…``."""
        self._line(f"checkpoint step={record.step} path={record.path}")

    def finished(self, outcome: Outcome) -> None:
        """Write the closing summary."""
        for line in summary_text(outcome).splitlines():
            self._line(line)

    def _evaluation(self, record: Record) -> None:
        keys = {metric: key for metric, key, _ in _TRAIN_FIELDS}
        fields = [
            f"{keys[metric]}={number(record.metrics[metric])}"
            for metric in _EVAL_KEYS
            if metric in record.metrics
        ]
        self._line(" ".join([f"eval step={record.step}", *fields]))
        if self._first_evaluation is None:
            self._first_evaluation = record.metrics
        elif not self._said_chosen_fall and chosen_rewards_fall(self._first_evaluation, record.metrics):
            self._said_chosen_fall = True
            self.note(CHOSEN_REWARDS_FALL)

    def _marked(self, mark: str, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._line(f"{mark}: {line}")

    def _line(self, text: str) -> None:
        # A closed pipe, or an encoding without a character, must not end the run.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = printable(text).replace("\n", " ").encode(encoding, "replace").decode(encoding)
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()
