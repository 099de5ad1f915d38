"""Dataset formatters: from a row to a preference pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar

from dpotrain.core.pair import PreferencePair
from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import returns


class Recognition(IntEnum):
    """How sure a formatter is that a row is of its shape."""

    NO = 0
    SHAPE = 1
    """The columns and their types fit; another shape may fit as well and be more specific."""
    CERTAIN = 2
    """Something in the row can hardly mean anything else (a marker text, a telling column)."""


def _are_pairs(value: Any) -> bool:
    pairs = [value] if isinstance(value, PreferencePair) else value
    return isinstance(pairs, list | tuple) and all(isinstance(each, PreferencePair) for each in pairs)


class DatasetFormatter(Component):
    """Turns a row into a :class:`PreferencePair`; selected by ``data.format``, or found by ``"auto"``."""

    kind = "dataset formatter"
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that the formatter reads, under the names that ``[data.columns]`` maps to."""
    numbers: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers that its pairs have (:attr:`PreferencePair.numbers`)."""

    @abstractmethod
    @returns("a Recognition", lambda value: isinstance(value, int) and value in tuple(Recognition))
    def recognises(self, row: Mapping[str, Any]) -> Recognition:
        """Say how sure the formatter is of this row.

        Never raise; a row with None or empty values is judged by the rest.
        """

    @abstractmethod
    @returns("a PreferencePair or a list of them", _are_pairs)
    def format(self, row: Mapping[str, Any]) -> PreferencePair | Sequence[PreferencePair]:
        """Return the row's pair, or its pairs where it has several answers.

        Raises :class:`dpotrain.core.pair.UnusableRow` with a short reason. A row with text in a column that is known
        to belong to a pair (``system``, ``history``, …) and that this method does not read is refused afterwards.
        """


@hookspec
def dpotrain_dataset_formatters() -> Iterable[type[DatasetFormatter]]:  # type: ignore[empty-body]
    """Offer dataset formatters, which turn a row into a preference pair.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or datasets, neither at the top of its module nor for a row.

    Result: classes. ``data.format`` picks one by ``name``; ``"auto"`` constructs all of them with their
    default options and asks which recognises the rows.

    Example:
        from dpotrain import PreferencePair, hookimpl
        from dpotrain.plugin.api import DatasetFormatter, Recognition, UnusableRow


        class RankedFormatter(DatasetFormatter):
            name = "ranked"
            columns = ("prompt", "ranked_answers")

            def recognises(self, row):
                return Recognition.CERTAIN if "ranked_answers" in row else Recognition.NO

            def format(self, row):
                answers = row.get("ranked_answers") or []
                if len(answers) < 2:
                    raise UnusableRow("fewer than two ranked answers")
                return PreferencePair(prompt=row["prompt"], chosen=answers[0], rejected=answers[-1])


        @hookimpl
        def dpotrain_dataset_formatters():
            return [RankedFormatter]
    """
