"""The live region of line mode as a pure function of a state, a time and a width: for terminals of few lines."""

from __future__ import annotations

from rich.text import Text

from dpotrain.core.formats import magnitude, number, share, signed, sparkline
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.layout import Block, fill, wrap
from dpotrain.ui.panels import evaluation, figures, known, progress
from dpotrain.ui.state import ViewState

#: The most columns of the curve of the loss.
_CURVE = 40


def picture(state: ViewState, now: float, width: int) -> Block:
    """Return the live region as lines of at most ``width`` columns."""
    lines = progress(state, now, width)
    if state.pace.last is None and not state.figures:
        return lines
    parts = known(
        ("loss", state.mean("loss"), number),
        ("accuracy", state.mean("rewards/accuracies"), share),
        ("margin", state.mean("rewards/margins"), signed),
        ("chosen", state.mean("rewards/chosen"), signed),
        ("rejected", state.mean("rewards/rejected"), signed),
        ("gradient norm", state.mean("grad_norm"), magnitude),
    )
    lines += [Text(line) for line in fill([f"{label} {text}" for label, text in parts], width)]
    lines += _curve(state, width)
    lines += figures(state, width) + evaluation(state, width)
    first, last = state.first_evaluation, state.evaluation
    if last is not first and chosen_rewards_fall(first, last):
        lines += [Text(line, style="dim italic") for line in wrap(CHOSEN_REWARDS_FALL, width)]
    return lines


def _curve(state: ViewState, width: int) -> Block:
    """Return the course of the loss with its scale; nothing before there is one."""
    course = state.course.get(("train", "loss"))
    values = [] if course is None else [value for _, value in course.drawn()]
    if len(values) < 2:
        return []
    scale = f" from {number(min(values))} to {number(max(values))}"
    room = min(_CURVE, width - len("loss ") - len(scale))
    if room < 2:
        return []
    return [Text.assemble("loss ", (sparkline(values, room), "green"), (scale, "dim"))]
