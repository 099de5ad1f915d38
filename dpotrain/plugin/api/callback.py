"""Callbacks: they follow the run and steer it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from dpotrain.plugin.api.component import Component, hookspec


class Callback(Component):
    """Hears run events, with options of its own; selected by a ``[[callbacks]]`` table.

    Its methods are run events, marked with ``@hookimpl``. They are called on the main process, between two steps, and
    may ask the run to stop, save or evaluate, and log numbers and texts: see :class:`Run`. What it keeps belongs into
    ``state_dict``, so that a resumed run goes on alike. A callback that raises ends the run.
    """

    kind = "callback"

    needs_evaluations: ClassVar[bool] = False
    """Whether it does nothing without evaluations during training: a recipe without ``evaluation.every`` is refused."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the data whose numbers the pairs of ``run.held_out()`` have in ``columns``; see :class:`Loss`."""


@hookspec
def dpotrain_callbacks() -> Iterable[type[Callback]]:  # type: ignore[empty-body]
    """Offer callbacks, which follow the run and steer it.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; the run events of a callback are called on the main process only.

    Must not import: torch or transformers at the top of its module.

    Result: classes. Every ``[[callbacks]]`` table picks one by ``use``.

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Callback


        class StopAtMargin(Callback):
            name = "stop-at-margin"
            needs_evaluations = True

            class Options(Callback.Options):
                margin: float = Field(2.0, gt=0, description="The held-out margin that is enough.")

            @hookimpl
            def dpotrain_evaluated(self, run, evaluation):
                if evaluation.metrics["rewards/margins"] >= self.options.margin:
                    run.stop(f"the margin is {evaluation.metrics['rewards/margins']:.2f}")


        @hookimpl
        def dpotrain_callbacks():
            return [StopAtMargin]
    """
