"""All that a view of a run depends on, and the reporter that keeps it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from dpotrain.core.controls import Controls
from dpotrain.core.formats import count, duration, printable
from dpotrain.core.pace import Pace
from dpotrain.core.records import CheckpointRecord, Outcome, Record, SamplesRecord, StepRecord
from dpotrain.core.reporter import Advance, Reporter
from dpotrain.ui.series import Series

#: Lines that are kept of what was said; run.log has all.
MOST_LINES = 500
#: A phase of unknown length that is shorter leaves no line.
SHORT_PHASE_SECONDS = 0.2

Kind = Literal["header", "phase", "note", "warning"]


@dataclass(slots=True)
class PhaseState:
    """Running work before or between steps."""

    name: str
    total: int | None
    begun: float
    done: int = 0

    def seconds_left(self, now: float) -> float:
        """Seconds until it is done at the mean speed; nan where that is unknown."""
        if not self.total or not self.done:
            return math.nan
        return (self.total - self.done) * (now - self.begun) / self.done


@dataclass(frozen=True, slots=True)
class Line:
    """Something that was said of the run."""

    kind: Kind
    text: str


@dataclass(slots=True)
class Microbatches:
    """How far the present step is."""

    step: int
    done: int
    total: int
    begun: float

    def step_seconds(self, now: float) -> float:
        """Return the time of the whole step by what is done of it; nan where nothing is."""
        return (now - self.begun) / self.done * self.total if self.done else math.nan


@dataclass(slots=True)
class ViewState:
    """A run as a view shows it; times are seconds of one clock."""

    begun: float
    pace: Pace = field(default_factory=Pace)
    title: str = ""
    info: dict[str, str] = field(default_factory=dict)
    phases: list[PhaseState] = field(default_factory=list)
    microbatches: Microbatches | None = None
    """None between two steps."""
    epoch: float = 0.0
    told_left: float | None = None
    """Seconds until the end as another process says; None where this view reckons them."""
    told_step_seconds: float = math.nan
    figures: Mapping[str, float] = field(default_factory=dict)
    """The last train record, for where this process has taken no step."""
    course: dict[tuple[str, str], Series] = field(default_factory=dict)
    """Each metric's course by kind of record and name."""
    memory_mb: float | None = None
    first_evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation_step: int = 0
    first_samples: SamplesRecord | None = None
    samples: SamplesRecord | None = None
    checkpoint_step: int | None = None
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    said: int = 0
    """How many lines there were so far, also those that are not kept."""
    controls: Controls | None = None
    """None where nothing can be asked of the run."""

    def say(self, kind: Kind, text: str) -> None:
        """Add a line; what was said last is not said again."""
        line = Line(kind, printable(text))
        if self.lines and self.lines[-1] == line and kind in ("note", "warning"):
            return
        self.lines.append(line)
        self.said += 1

    def begin(self, title: str, info: Mapping[str, str]) -> None:
        """Take the run's title and labelled lines."""
        self.title = printable(title)
        self.info = {printable(label): printable(value) for label, value in info.items()}
        self.say("header", title)

    def add(self, kind: str, step: float, metrics: Mapping[str, float]) -> None:
        """Add a record's numbers to their courses."""
        for name, value in metrics.items():
            if (kind, name) not in self.course:
                self.course[kind, name] = Series()
            self.course[kind, name].add(step, value)

    def mean(self, metric: str) -> float | None:
        """Return a training metric over the recent steps, or as last logged."""
        return self.figures.get(metric) if self.pace.last is None else self.pace.mean(metric)

    def step_seconds(self, now: float) -> float:
        """Return the time of a step: the mean so far, or by what is done of the first; nan where that is unknown."""
        for seconds in (self.pace.step_seconds, self.told_step_seconds):
            if not math.isnan(seconds):
                return seconds
        return math.nan if self.microbatches is None else self.microbatches.step_seconds(now)

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the end; nan where that is unknown."""
        if self.told_left is not None:
            return self.told_left
        now_on = self.microbatches
        left = self.pace.seconds_left(now_on.step_seconds(now) if now_on else math.nan)
        gone = 0.0 if now_on is None or not self.pace.steps else now - now_on.begun
        return max(left - min(gone, self.pace.step_seconds), 0.0) if gone else left


class Tracker(Reporter):
    """Keeps a :class:`ViewState`. Its calls are cheap, and none of them draws."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, evaluate_every: int | None = None
    ) -> None:
        self.clock = clock
        self.state = ViewState(begun=clock(), pace=Pace(evaluate_every))

    def restart(self) -> None:
        """Forget all: the run begins again, or goes on from an earlier step."""
        self.state = ViewState(begun=self.clock(), said=self.state.said)

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:  # noqa: D102
        self.state.begin(title, info)
        self.state.pace.total_steps = total_steps

    @contextmanager
    def phase(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show the phase while it lasts, and then, before the first step, a line with its duration."""
        state = self.state
        phase = PhaseState(printable(name), total, self.clock())
        state.phases.append(phase)
        state.microbatches = None

        def advance(count: int = 1) -> None:
            phase.done += count

        try:
            yield advance
        finally:
            state.phases.remove(phase)
            took = self.clock() - phase.begun
            if not state.phases:  # one inside another is part of it
                state.pace.pause(took)
        # Phases between steps (evaluations) recur, and the view shows their results; of short ones nobody saw the bar.
        if state.pace.last is None and (phase.done or took >= SHORT_PHASE_SECONDS):
            amount = f" {count(phase.done)}" if phase.done else ""
            state.say("phase", f"{phase.name}{amount} in {duration(took)}")

    def note(self, text: str) -> None:  # noqa: D102
        self.state.say("note", text)

    def warn(self, text: str) -> None:  # noqa: D102
        self.state.say("warning", text)

    def controls(self, controls: Controls) -> None:  # noqa: D102
        self.state.controls = controls

    def microbatch(self, step: int, done: int, total: int) -> None:  # noqa: D102
        state, now = self.state, self.state.microbatches
        if now is None or now.step != step or now.total != total:
            state.microbatches = Microbatches(step, done, total, self.clock())
            if not state.pace.step:
                state.pace.step = step - 1
        else:
            now.done = done

    def step(self, record: StepRecord) -> None:  # noqa: D102
        state = self.state
        state.microbatches = None
        state.pace.add(record)
        state.epoch = record.epoch
        state.add("train", record.step, record.metrics)
        state.memory_mb = record.metrics.get("peak_memory_mb", state.memory_mb)

    def logged(self, record: Record) -> None:
        """Add an evaluation; a train record adds only what steps do not have."""
        state = self.state
        if record.kind == "train":
            state.memory_mb = record.metrics.get("peak_memory_mb", state.memory_mb)
            return
        self._evaluated(record)
        state.pace.evaluated()

    def resumed(self, records: Sequence[Record]) -> None:
        """Draw the curves from where the run began, not from where this process goes on."""
        for record in records:
            if record.kind == "train":
                self.state.add("train", record.step, record.metrics)
                self.state.figures = record.metrics
                self.state.memory_mb = record.metrics.get("peak_memory_mb", self.state.memory_mb)
            else:
                self._evaluated(record)

    def _evaluated(self, record: Record) -> None:
        state = self.state
        state.add("eval", record.step, record.metrics)
        state.first_evaluation = state.first_evaluation or record.metrics
        state.evaluation, state.evaluation_step = record.metrics, record.step

    def samples(self, record: SamplesRecord) -> None:  # noqa: D102
        state = self.state
        if record.step == 0 or state.first_samples is None:
            state.first_samples = record
        state.samples = record

    def checkpoint(self, record: CheckpointRecord) -> None:  # noqa: D102
        self.state.checkpoint_step = record.step

    def finished(self, outcome: Outcome) -> None:  # noqa: D102
        self.state.microbatches = None
