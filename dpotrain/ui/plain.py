"""The run as plain lines, for logs, pipes and batch jobs: ``key=value``, one event a line, no colours."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO

from dpotrain.core.formats import duration, printable
from dpotrain.core.pace import Pace
from dpotrain.core.record_line import record_line
from dpotrain.core.records import CheckpointRecord, Outcome, Record, SamplesRecord, StepRecord
from dpotrain.core.reporter import Advance, Reporter
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.summary import summary_text

#: Seconds between progress lines of a phase: the shorter time where at least a tenth was done, else the longer.
PHASE_SECONDS = 10.0
PHASE_SHARE = 0.1
PHASE_SECONDS_AT_LATEST = 60.0
#: A phase of unknown length that is shorter has no line for its end.
SHORT_PHASE_SECONDS = 1.0

#: Characters that are shown of a prompt and of an answer.
_SAMPLE_LENGTH = 300


class PlainReporter(Reporter):
    """Writes lines to a stream. A stream that fails does not end the run."""

    def __init__(
        self,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        evaluate_every: int | None = None,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._pace = Pace(evaluate_every)
        self._total_steps = 0
        self._step_begun = (0, 0.0)
        self._spoken = clock()
        self._first_evaluation: Mapping[str, float] | None = None
        self._said_chosen_fall = False

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:
        """Write the title and one line for each entry of ``info``."""
        self._total_steps = total_steps
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
            if done or total is not None:
                self._line(f"{name}: interrupted at {done}{of} after {duration(self._clock() - begun)}")
            raise
        self._pace.pause(self._clock() - begun)
        amount = f" {done}{of}" if done or total is not None else ""
        if amount or self._clock() - begun >= SHORT_PHASE_SECONDS:
            self._line(f"{name}: done{amount} in {duration(self._clock() - begun)}")

    def note(self, text: str, mark: str = "note") -> None:
        """Write ``note: …`` on every line of the text."""
        for line in text.splitlines() or [""]:
            self._line(f"{mark}: {line}")

    def warn(self, text: str) -> None:
        """Write ``warning: …`` on every line of the text."""
        self.note(text, "warning")

    def microbatch(self, step: int, done: int, total: int) -> None:
        """Write how far a step of minutes is, where nothing else was written for one."""
        now = self._clock()
        if self._step_begun[0] != step:
            self._step_begun = step, now
        if done and now - self._spoken >= PHASE_SECONDS_AT_LATEST:
            eta = duration((total - done) * (now - self._step_begun[1]) / done)
            of = f"/{self._total_steps}" if self._total_steps else ""
            self._line(f"step {step}{of}: {done}/{total} micro-batches eta={eta}")

    def step(self, record: StepRecord) -> None:
        """Keep the step for the time left; lines are written for logged records."""
        self._pace.add(record)

    def logged(self, record: Record) -> None:
        """Write a train record as ``step 10/470 loss=… …``, an eval record as ``eval step=… loss=… …``."""
        if record.kind == "eval":
            self._evaluation(record)
            return
        last = self._pace.last
        if last is None:
            self._line(record_line(record))
        else:
            self._line(f"{record_line(record, last.total_steps)} eta={duration(self._pace.seconds_left())}")

    def samples(self, record: SamplesRecord) -> None:
        """Write a line for each answer."""
        for sample in record.samples:
            prompt, answer = (
                json.dumps(_cut(text), ensure_ascii=False) for text in (sample.prompt, sample.answer)
            )
            self._line(f"sample step={record.step} prompt={prompt} answer={answer}")

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Write ``checkpoint step=… path=…``."""
        self._line(f"checkpoint step={record.step} path={record.path}")

    def finished(self, outcome: Outcome) -> None:
        """Write the closing summary."""
        for line in summary_text(outcome).splitlines():
            self._line(line)

    def _evaluation(self, record: Record) -> None:
        self._line(record_line(record))
        self._pace.evaluated()
        if self._first_evaluation is None:
            self._first_evaluation = record.metrics
        elif not self._said_chosen_fall and chosen_rewards_fall(self._first_evaluation, record.metrics):
            self._said_chosen_fall = True
            self.note(CHOSEN_REWARDS_FALL)

    def _line(self, text: str) -> None:
        self._spoken = self._clock()
        # A closed pipe, or an encoding without a character, must not end the run.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = printable(text).replace("\n", " ").encode(encoding, "replace").decode(encoding)
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


def _cut(text: str) -> str:
    return text if len(text) <= _SAMPLE_LENGTH else text[: _SAMPLE_LENGTH - 1] + "…"
