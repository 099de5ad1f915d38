"""Why a step was not taken: the person asked for an end, or its numbers are not finite."""

from __future__ import annotations

from dpotrain.core.errors import RunError
from dpotrain.data.batches.mixture import Indices
from dpotrain.data.batches.plan import StepPlan


class Interrupted(Exception):  # noqa: N818 - it is no error: the person asked for it
    """A step was abandoned between micro-batches, before it changed anything."""


class NotFinite(RunError):  # noqa: N818 - named by what the numbers are
    """Loss or gradient norm of a step is not finite on some rank; every rank raises it, and nothing was updated."""

    def __init__(self, text: str, step: int, pairs: Indices) -> None:
        super().__init__(text)
        self.step = step
        self.pairs = pairs
        """(pairs of the step,) indices into the training pairs."""


def end(problem: NotFinite) -> None:
    """Raise it: what a run does that is not told to skip such steps."""
    raise problem


def not_finite(step: StepPlan, rows: Indices, loss: float, grad_norm: float, fault: str) -> NotFinite:
    """Return what to say of a step whose pairs come from ``rows``; ``fault`` is the loss's own, "" for none."""
    shown = ", ".join(str(row) for row in rows[:8])
    return NotFinite(
        f"step {step.step}: the loss is {loss} and the gradient norm {grad_norm}; nothing was updated.\n"
        + (f"{fault}\n" if fault else "")
        + f"The step's pairs came from rows {shown}{' …' if len(rows) > 8 else ''}.",
        step.step,
        step.pairs,
    )
