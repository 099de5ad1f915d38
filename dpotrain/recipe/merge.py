"""Merging documents, with the file that each key came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api.kinds import CORE_KINDS
from dpotrain.recipe.mixture import SOURCES
from dpotrain.recipe.sections.catalogue import core_keys

#: Path of a value: table, key, list index, …
Place: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True)
class Tree:
    """A document merged from layers, and the origin of everything in it."""

    root: str
    """The recipe's own file; the origin of whatever is missing."""
    document: dict[str, Any] = field(default_factory=dict)
    _origins: dict[Place, str] = field(default_factory=dict)
    _stale: dict[Place, set[str]] = field(default_factory=dict)

    def origin(self, *place: str | int) -> str:
        """Return the file that a value, or else the nearest table around it, came from."""
        for end in range(len(place), 0, -1):
            if place[:end] in self._origins:
                return self._origins[place[:end]]
        return self.root

    def merge(self, document: dict[str, Any], origin: str, *, is_file: bool = True) -> None:
        """Merge a document over those before it.

        Tables are merged; all other values, lists too, are replaced. A component's table whose ``use``
        changes starts empty, since its options were another component's (but see :meth:`stale_keys`). In overrides a
        number selects an element of a list, or appends after its last.
        """
        self._merge(self.document, document, (), origin, is_file)

    def stale_keys(self, place: Place) -> set[str]:
        """Return the keys of a table that were set for another component than the one that it selects now.

        Only a table with a default ``use`` keeps such keys: optimizers and schedules share most options, and those
        that the new one does not have are dropped silently.
        """
        return self._stale.get(place, set())

    def _merge(
        self, base: dict[str, Any], over: dict[str, Any], at: Place, origin: str, is_file: bool
    ) -> None:
        for key, value in over.items():
            place = (*at, key)
            present = base.get(key, [] if len(place) == 1 and _all_numbers(value) else None)
            if isinstance(value, dict) and isinstance(present, dict):
                other = _picks_another(place, present, value)
                if len(place) == 1 and key in CORE_KINDS.default_use:
                    known = self.stale_keys(place) | (present.keys() if other else set())
                    self._stale[place] = known - value.keys()
                elif other:
                    self._forget(place)
                    kept = _core_keys(place) - {SOURCES}
                    base[key] = present = {k: v for k, v in present.items() if k in kept}
                    self._origins[place] = origin
                if is_file:  # a missing key is reported for the file, not for an override of another key
                    self._origins[place] = origin
                self._merge(present, value, place, origin, is_file)
            elif isinstance(present, list) and not is_file and _all_numbers(value):
                base[key] = present
                self._origins.setdefault(place, origin)
                self._merge_list(present, value, place, origin)
            else:
                self._forget(place)
                base[key] = value  # every layer is read anew, so nobody else holds it
                self._note(place, value, origin)

    def _merge_list(self, base: list[Any], over: dict[str, Any], at: Place, origin: str) -> None:
        for number, value in sorted(over.items(), key=lambda item: int(item[0])):
            index = int(number)
            name = ".".join(map(str, at))
            if index > len(base):
                raise RecipeError(f"{origin}: there is no {name}.{index}; {name} has {len(base)} so far")
            if index == len(base):
                base.append({} if isinstance(value, dict) else value)
            items: dict[Any, Any] = {index: base[index]}
            self._merge(items, {index: value}, at, origin, is_file=False)  # type: ignore[dict-item]
            base[index] = items[index]
            self._origins.setdefault((*at, index), origin)

    def _note(self, place: Place, value: Any, origin: str) -> None:
        self._origins[place] = origin
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self._note((*place, key), item, origin)

    def _forget(self, place: Place) -> None:
        for known in [known for known in self._origins if known[: len(place)] == place]:
            if known[: len(place) + 1] not in {(*place, key) for key in _core_keys(place) - {SOURCES}}:
                del self._origins[known]


def _picks_another(place: Place, present: dict[str, Any], over: dict[str, Any]) -> bool:
    default = CORE_KINDS.default_use.get(str(place[0])) if len(place) == 1 else None
    before = present.get("use", default)
    if "use" not in over:  # several in the place of one
        return before is not None and bool(over.get(SOURCES)) and SOURCES in _core_keys(place)
    if SOURCES in present and SOURCES in _core_keys(place):
        return True
    return before is not None and bool(over["use"] != before)


def _core_keys(place: Place) -> frozenset[str]:
    """Return the keys of a component's table that are the core's."""
    return core_keys(str(place[0])) if len(place) == 1 else frozenset()


def _all_numbers(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(key.isdecimal() and len(key) < 10 for key in value)
