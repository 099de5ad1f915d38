"""Exporters: what is done with the result of a finished run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import returns

if TYPE_CHECKING:
    from dpotrain.core.records import Outcome
    from dpotrain.plugin.api.selection import Selection


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run as exporters see it: its files, and nothing in memory."""

    folder: Path
    final: Path
    """The adapter or model that was trained, with its tokenizer."""
    recipe: Selection
    """The recipe: its components, and ``document``, which has all of it as plain data."""
    outcome: Outcome
    note: Callable[[str], None] = lambda text: None
    """Shows a line to the person watching and writes it to run.log."""


class Exporter(Component):
    """Makes something of a finished run's result; selected by an ``[[exporters]]`` table. Main process only.

    Exporters run one after the other, after ``final/`` and ``summary.json`` are written and the policy has left memory.
    Where one raises, the others still run, ``final/`` stays, and ``--resume`` runs the failed one again.
    """

    kind = "exporter"

    needs_adapter: ClassVar[bool] = False
    """Whether it makes something of an adapter; a recipe that trains weights of the model itself is then refused."""

    @abstractmethod
    @returns(
        "where the result is, a text or a path",
        lambda value: isinstance(value, str | Path) and bool(str(value)),
    )
    def export(self, run: Finished) -> str:
        """Make the result, and return where it is: a folder, an address.

        Write to a temporary place and rename, so that a result is never incomplete (``folder_aside``, ``write_json``);
        do not change ``run.final``.

        ``run.final`` may be an adapter. ``run.recipe.model.load_model(LoadRequest(source=str(run.final)))`` returns the
        result as one model all the same: an adapter is merged into the weights of its base as they are stored, also
        where the run quantized them. (The exporter ``merge`` merges into the quantized ones.)
        """


@hookspec
def dpotrain_exporters() -> Iterable[type[Exporter]]:  # type: ignore[empty-body]
    """Offer exporters, which make something of a finished run's result.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process; ``export`` runs on the main process only.

    Must not import: torch, transformers or the client of a service at the top of its module.

    Result: classes. Every ``[[exporters]]`` table picks one by ``use``; they run in the recipe's order, so one may take
    up what another made. One that raises ends ``dpotrain run`` with exit code 1, after all others; the run itself stays
    finished, and ``--resume`` runs the exporter again. ``exports.json`` keeps what the others returned.

    Example:
        import shutil

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Exporter


        class Archive(Exporter):
            name = "archive"

            def export(self, run):
                return shutil.make_archive(str(run.folder / "final"), "zip", run.final)


        @hookimpl
        def dpotrain_exporters():
            return [Archive]
    """
