"""Schedules: the learning rate over the run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import is_number, returns


class Schedule(Component):
    """Moves the learning rate over the run; selected by ``[schedule]``."""

    kind = "schedule"

    @abstractmethod
    @returns("a finite number that is not negative", lambda value: is_number(value) and value >= 0)
    def factor(self, step: int, total_steps: int) -> float:
        """Return what the peak learning rate is multiplied by in step ``step``, 1 for the first update.

        A finite number that is not negative, and a function of nothing but its arguments and the options: a
        resumed run asks again.
        """


@hookspec
def dpotrain_schedules() -> Iterable[type[Schedule]]:  # type: ignore[empty-body]
    """Offer schedules, which move the learning rate over the run.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or transformers at the top of its module.

    Result: classes. ``[schedule] use`` picks one by ``name``; a table that does not say means "cosine".

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Schedule


        class Polynomial(Schedule):
            name = "polynomial"

            class Options(Schedule.Options):
                warmup_steps: int = Field(0, ge=0, description="Steps that rise to the peak.")
                power: float = Field(2.0, gt=0, description="Of the share of the steps that are left.")

            def factor(self, step, total_steps):
                warmup = self.options.warmup_steps
                if step <= warmup:
                    return step / warmup
                return ((total_steps + 1 - step) / (total_steps - warmup)) ** self.options.power


        @hookimpl
        def dpotrain_schedules():
            return [Polynomial]
    """
