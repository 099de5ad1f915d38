"""Everything that is wrong with a recipe, collected and raised as one error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dpotrain.core.errors import DpotrainError, RecipeError
from dpotrain.recipe.merge import Place
from dpotrain.recipe.values import shown_key


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    origin: str
    """The file that the key came from, or ``--set``."""
    table: str
    """``"adapter"``, ``"data.format"``, ``"loggers.0"``; empty for the top of the recipe."""
    key: str
    """Empty where the whole table is meant."""
    text: str

    @property
    def place(self) -> str:
        """The table and key as a recipe writes them: ``[adapter] rank``."""
        return " ".join(part for part in (f"[{self.table}]" if self.table else "", self.key) if part)

    def __str__(self) -> str:
        first, *rest = self.text.splitlines()
        return "\n    ".join([f"{self.place}: {first}" if self.place else first, *rest])


@dataclass(slots=True)
class Problems:
    """Collects problems while the recipe is read."""

    origin: Callable[..., str]
    """Returns the file that the value at a place came from (see :meth:`dpotrain.recipe.merge.Tree.origin`)."""
    _found: list[Problem] = field(default_factory=list)
    _kinds: set[type[DpotrainError]] = field(default_factory=set)

    def add(
        self, table: Place, key: Place, text: str, *, shown: str = "", kind: type[DpotrainError] = RecipeError
    ) -> None:
        """Collect a problem of the value at ``table`` + ``key``, which is shown as ``shown`` where given.

        ``kind`` is the error class if it is the only problem.
        """
        problem = Problem(self.origin(*table, *key), _dotted(table), shown or _dotted(key), text)
        if problem not in self._found:
            self._found.append(problem)
            self._kinds.add(kind)

    def raise_if_any(self) -> None:
        """Raise one error with everything found.

        It is a DataError if nothing but the data is wrong, and a PluginError if nothing but plugins failed.
        """
        if self._found:
            kind = next(iter(self._kinds)) if len(self._kinds) == 1 else RecipeError
            by_origin: dict[str, list[str]] = {}
            for problem in self._found:
                by_origin.setdefault(problem.origin, []).append(f"  {problem}")
            lines = []
            for origin, found in by_origin.items():
                lines += [f"{origin}: {len(found)} error{'s' * (len(found) > 1)}", *found]
            raise kind("\n".join(lines))


def _dotted(place: Place) -> str:
    return ".".join(shown_key(str(part)) for part in place)
