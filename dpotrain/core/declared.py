"""Numbers that components get because they ask for them by name, with an error that says how."""

from __future__ import annotations

from typing import ClassVar, TypeVar

V = TypeVar("V")


class UndeclaredError(KeyError):
    """A component reads what none in the recipe has asked for."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Declared(dict[str, V]):
    """What was asked for, by name."""

    place: ClassVar[str]
    """What an author calls it."""
    attribute: ClassVar[str]
    """Where a component asks for it."""

    def __missing__(self, name: str) -> V:
        held = ", ".join(f'"{each}"' for each in self) or "nothing"
        raise UndeclaredError(
            f'{self.place} has no "{name}", which the component asks for by {self.attribute} = ("{name}",) in its '
            f"class (what is asked for in this recipe: {held})"
        )


class ScoreColumns(_Declared[V]):
    """``scores.columns``."""

    place, attribute = "scores.columns", "columns"


class ScoreStatistics(_Declared[V]):
    """``scores.statistics``."""

    place, attribute = "scores.statistics", "needs_statistics"


class PairColumns(_Declared[V]):
    """``HeldOutPair.columns``."""

    place, attribute = "pair.columns", "columns"
