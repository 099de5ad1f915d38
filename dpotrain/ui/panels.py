"""The parts of a view: progress, figures, samples, notes. Pure functions of a state, a time and a size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dpotrain.core.formats import (
    count,
    duration,
    learning_rate,
    megabytes,
    number,
    plural,
    printable,
    rate,
    share,
    signed,
)
from dpotrain.core.statistics import wilson
from dpotrain.ui.layout import Block, ends, fill, wrap
from dpotrain.ui.state import PhaseState, ViewState

#: Columns of a bar: at least and at most, and those of the piece that moves in one of unknown length.
_BAR, _LONGEST_BAR, _MOVING = 8, 60, 3
#: From this width on, the line of the whole run says the epoch.
_EPOCH_WIDTH = 60
#: From this width on, an evaluation has intervals and changes.
_CHANGES_WIDTH = 56
_LINE_STYLES = {"phase": "dim", "note": "", "warning": "yellow"}
_LINE_MARKS = {"phase": "✓ ", "note": "· ", "warning": "! "}


ACCURACY = "rewards/accuracies"
#: Label, metric, how it is written, and how its change since the first evaluation is, where that is worth its place.
EVALUATION: tuple[tuple[str, str, Callable[[float], str], Callable[[float], str] | None], ...] = (
    ("loss", "loss", number, signed),
    ("accuracy", ACCURACY, share, lambda change: f"{change * 100:+.1f}"),
    ("margin", "rewards/margins", signed, None),
)


def head(state: ViewState, now: float, width: int) -> Text:
    """Return the title line: what runs, and for how long."""
    about = "  ".join(value for key, value in state.info.items() if key in ("model", "training"))
    clock = f"{duration(now - state.begun)} gone"
    title = Text(state.title or "dpotrain", style="bold")
    if about:
        title.append(f"  {about}", style="not bold dim")
    return ends(title, Text(clock), width)


def progress(state: ViewState, now: float, width: int) -> Block:
    """Return the lines of the whole run, of the present step, and of every phase that goes on."""
    pace, lines = state.pace, []
    phases, micro = list(state.phases), state.microbatches
    labels = max([len("training"), *(cell_len(phase.name) for phase in phases)])
    if pace.step or micro is not None:
        total, left = pace.total_steps, state.seconds_left(now)
        tail = [f"step {count(pace.step)}" + (f" of {count(total)}" if total else "")]
        if state.epoch and width >= _EPOCH_WIDTH:
            tail.append(f"epoch {state.epoch:.2f}")
        if not math.isnan(left) and (pace.step < total or left):
            tail.append(f"{duration(left)} left")
        lines += bar("training", pace.step, total or None, tail, width, labels, "green")
    if micro is not None:
        gone, each = now - micro.begun, state.step_seconds(now)
        about = "" if math.isnan(each) else f" of about {duration(max(each, gone))}"
        tail = [
            f"{count(micro.done)} of {plural(micro.total, 'micro-batch', 'micro-batches')}",
            duration(gone) + about,
        ]
        lines += bar(f"step {count(micro.step)}", micro.done, micro.total, tail, width, labels, "cyan")
    for phase in phases:
        lines += phase_lines(phase, now, width, labels)
    return lines


def phase_lines(phase: PhaseState, now: float, width: int, labels: int) -> Block:
    """Return a phase's bar, with how much is done and how long it took or will take."""
    gone, left = now - phase.begun, phase.seconds_left(now)
    tail = [count(phase.done)] if phase.done and phase.total is None else []
    if phase.total is not None:
        tail = [f"{count(phase.done)} of {count(phase.total)}"]
    tail.append(duration(gone) if math.isnan(left) else f"{duration(left)} left")
    return bar(phase.name, phase.done, phase.total, tail, width, labels, "cyan", now=now)


def bar(
    label: str,
    done: int,
    total: int | None,
    tail: Sequence[str],
    width: int,
    labels: int,
    style: str,
    now: float = 0.0,
) -> Block:
    """Return a label, a bar of what is done of ``total`` where there is room, and ``tail``, below them if it must be.

    A phase of unknown length has a piece that moves with ``now``, so that one sees that it goes on.
    """
    line = Text(label + " " * (labels - cell_len(label)), style="bold", no_wrap=True)
    said = ", ".join(tail)
    room = width - cell_len(line.plain) - cell_len(said) - 2
    if room < 0:
        return [
            Text(part, style="bold" if part is label else "", no_wrap=True)
            for part in [label, *fill(tail, width)]
        ]
    if room >= _BAR:
        size = min(room, _LONGEST_BAR)
        filled, at = (
            (min(size, size * done // total), 0) if total else (_MOVING, int(now) % (size - _MOVING + 1))
        )
        for piece, look in (("─" * at, "dim"), ("━" * filled, style), ("─" * (size - at - filled), "dim")):
            line.append(
                piece if line.plain.endswith(("━", "─")) or not piece else f" {piece}",
                style=f"not bold {look}",
            )
    line.append(f" {said}", style="not bold")
    return [line]


def figures(state: ViewState, width: int) -> Block:
    """Return the numbers that are no metrics of a pair: speeds, memory, learning rate, the newest checkpoint."""
    pace = state.pace
    parts = known(
        ("pairs/s", pace.pairs_per_second or state.figures.get("pairs_per_second"), rate),
        ("tokens/s", pace.tokens_per_second or state.figures.get("tokens_per_second"), rate),
        ("peak memory", state.memory_mb, megabytes),
        ("lr", state.mean("learning_rate"), learning_rate),
    )
    step = state.checkpoint_step
    saved = "no checkpoint yet" if step is None else f"checkpoint step {count(step)}"
    written = [f"{text} {label}" if "/" in label else f"{label} {text}" for label, text in parts]
    return [Text(line, style="dim") for line in fill([*written, saved], width)]


def evaluation(state: ViewState, width: int) -> Block:
    """Return the last evaluation and how it changed since the first one, as lines of whole parts."""
    now, first = state.evaluation, state.first_evaluation
    if not now:
        return []
    narrow = width < _CHANGES_WIDTH
    parts = []
    for label, metric, write, change in EVALUATION:
        if metric in now:
            text = f"{label} {write(now[metric])}"
            if metric == ACCURACY and now.get("pairs") and not narrow:
                low, high = wilson(now[metric], int(now["pairs"]))
                text += f" [{low * 100:.1f}, {high * 100:.1f}]"
            if now is not first and metric in first and change is not None and not narrow:
                text += f" ({change(now[metric] - first[metric])})"
            parts.append(text)
    title = f"eval step {count(state.evaluation_step)}: "
    if narrow:
        return [
            Text(line, style=style)
            for line, style in ((title.rstrip(), "magenta"), *((p, "") for p in parts))
        ]
    gap = " " * cell_len(title)
    return [
        Text.assemble((title if index == 0 else gap, "magenta"), line)
        for index, line in enumerate(fill(parts, width - len(gap)))
    ]


def samples(state: ViewState, width: int, height: int, *, whole: bool = False) -> Block:
    """Return answers before training beside those now, as many as ``height`` lines hold; ``whole`` ones wrap."""
    now, first = state.samples, state.first_samples
    if now is None or first is None:
        return []
    title = Text(f"samples at step {count(now.step)}", style="bold", no_wrap=True)
    if now is not first:
        title.append(f"  before: step {count(first.step)}", style="not bold dim")
    lines = [title]
    for before, sample in zip_longest(first.samples, now.samples):
        answers = (
            [("now   ", sample, "")] if now is first else [("before", before, "dim"), ("now   ", sample, "")]
        )
        block = _wrapped("prompt ", sample.prompt if sample else before.prompt, "cyan", width, whole)
        for label, each, style in answers:
            text = "" if each is None else each.answer or "(empty)"
            block += _wrapped(f"{label} ", text, style, width, whole)
        if len(lines) + len(block) > height and len(lines) > 1:
            break
        lines += block
    return lines[:height]


def _wrapped(label: str, text: str, style: str, width: int, whole: bool) -> Block:
    shown = " ".join(printable(text).split())
    room = max(width - len(label), 10)
    if not whole:
        line = Text(shown, style=style, no_wrap=True)
        line.truncate(room, overflow="ellipsis")
        return [Text.assemble((label, "dim"), line)]
    wrapped = wrap(shown, room)
    return [
        Text.assemble((label if index == 0 else " " * len(label), "dim"), (line, style))
        for index, line in enumerate(wrapped or [""])
    ]


def notes(state: ViewState, width: int, height: int, *, whole: bool = False, title: bool = True) -> Block:
    """Return what was said last, in order; ``whole`` lines wrap, others are cut."""
    lines: Block = []
    for said in reversed(list(state.lines)):
        if said.kind not in _LINE_MARKS:
            continue
        block: Block = []
        for index, text in enumerate(said.text.splitlines()):
            mark = _LINE_MARKS[said.kind] if index == 0 else "  "
            for place, part in enumerate(wrap(text, max(width - 2, 10)) if whole else [text]):
                start = mark if place == 0 else "  "
                line = Text(start + part, style=_LINE_STYLES[said.kind], no_wrap=True)
                line.truncate(width, overflow="ellipsis")
                block.append(line)
        room = height - title - len(lines)
        lines = (block[:room] if not lines else block[-room:] if room > 0 else []) + lines
        if len(lines) >= height - title:
            break
    return [Text("notes", style="bold"), *lines] if title and lines else lines


def information(state: ViewState, width: int) -> Block:
    """Return the labelled lines of the run's header."""
    widest = max(map(cell_len, state.info), default=0)
    return [
        Text.assemble((set_cell_size(label if index == 0 else "", widest) + "  ", "dim"), line)
        for label, value in state.info.items()
        for index, line in enumerate(wrap(value, max(width - widest - 2, 20)) or [""])
    ]


def known(*rows: tuple[str, float | None, Callable[[float], str]]) -> Iterator[tuple[str, str]]:
    """Yield labels with their values as text, of those that have one."""
    return ((label, write(value)) for label, value, write in rows if value is not None)
