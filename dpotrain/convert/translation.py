"""What becomes of each key of a configuration: a key of the recipe, or a reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpotrain.convert.configuration import Configuration
from dpotrain.core.errors import RecipeError, short
from dpotrain.recipe.draft import Draft, toml
from dpotrain.recipe.foreign import Foreign, Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

#: Keys of a recipe that take whole numbers, which other tools write as 3.0.
_WHOLE = frozenset(
    {"training.epochs", "training.steps", "training.pairs_per_step", "adapter.rank", "data.max_length",
     "data.max_prompt_length", "data.limit",
     "logging.every", "evaluation.every", "checkpoints.every", "checkpoints.keep", "schedule.warmup_steps",
     "schedule.decay_steps", "schedule.timescale", "seed"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """A key with its value, as the configuration has it or as the tool takes it by default."""

    key: str
    value: Any
    default_of: str = ""
    """The tool whose default it is; empty where the configuration has it."""

    @property
    def origin(self) -> str:
        """Where the value comes from, for a comment in the recipe."""
        return f"{self.key}, {self.default_of}'s default" if self.default_of else self.key


@dataclass(frozen=True, slots=True)
class Left:
    """A key that the recipe does not have."""

    key: str
    value: Any
    gap: Gap
    reason: str


@dataclass(frozen=True, slots=True)
class Tool:
    """Another trainer: how it is recognised, and what its keys mean."""

    name: str
    """As it is called: ``LLaMA-Factory``."""
    option: str
    """As ``--from`` takes it: ``llama-factory``."""
    programs: frozenset[str]
    """Programs of its command line."""
    marks: frozenset[str]
    """Keys that only it has."""
    keys: Mapping[str, Foreign]
    """Keys that mean something else than in :data:`FOREIGN_KEYS`, or are not in it."""
    defaults: Mapping[str, Any]
    """Its own defaults of keys that change the training, where they differ from dpotrain's."""
    translate: Callable[[Translation], None]
    """Translates the keys that are not one key of the recipe each."""


@dataclass(slots=True)
class Translation:
    """A recipe as it comes about, and the account of it."""

    tool: Tool
    configuration: Configuration
    processes: int
    losses: Sequence[str]
    """Names of the losses that dpotrain has."""
    without: Collection[str] = ()
    """Keys that are left out because the person says so."""
    draft: Draft = field(default_factory=Draft)
    translated: dict[str, str] = field(default_factory=dict)
    """Keys of the recipe by the configuration's."""
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the other tool does with a key that one may not expect."""
    explained: list[str] = field(default_factory=list)
    """How values were computed."""
    _rest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Drop the keys without a value, and those that the person leaves out."""
        values = self.configuration.values
        for key in self.without:
            if key not in values:
                raise RecipeError(f"--without {key}: {self.configuration.source} has no such key")
            self.left.append(Left(key, values[key], Gap.NOT_SUPPORTED, "left out, as --without says"))
        self._rest = {k: v for k, v in values.items() if v is not None and k not in self.without}

    @property
    def lost(self) -> list[Left]:
        """The keys without which the training may be another one."""
        return [left for left in self.left if left.gap in (Gap.NONE, Gap.NOT_SUPPORTED)]

    def has(self, key: str) -> bool:
        """Whether the configuration has a key that was not taken yet."""
        return key in self._rest

    def take(self, *keys: str) -> Given | None:
        """Return the first of some keys that is there, else the default of one, and take it off the list."""
        for key in keys:
            if key in self._rest:
                return Given(key, self._rest.pop(key))
        for key in keys:
            if key in self.tool.defaults:
                return Given(key, self.tool.defaults[key], self.tool.name)
        return None

    def take_number(self, *keys: str) -> Given | None:
        """Return :meth:`take` where it is a number; another value is listed, and the default taken."""
        given = self.take(*keys)
        if given is not None and (isinstance(given.value, bool) or not isinstance(given.value, int | float)):
            self.leave(given, Gap.NONE, "a number is expected")
            return self.take(*keys)
        return given

    def value(self, *keys: str) -> Any:
        """Return the value of :meth:`take`, or None."""
        given = self.take(*keys)
        return None if given is None else given.value

    def put(self, here: str, value: Any, given: Given, comment: str = "") -> None:
        """Write a key of the recipe; a value that must be whole and is not is left out with the reason."""
        if here in _WHOLE and isinstance(value, float):
            if not value.is_integer():
                self.leave(given, Gap.NONE, f"{here} takes a whole number")
                return
            value = int(value)
        self.draft.set(here, value, comment or given.origin)
        if not given.default_of:
            self.translated[given.key] = here

    def leave(self, given: Given, gap: Gap, reason: str) -> None:
        """Record that a key has no counterpart; a default that has none is only worth a note."""
        if not given.default_of:
            self.left.append(Left(given.key, given.value, gap, reason))

    def move(self, here: str, *keys: str, values: Mapping[Any, Any] | None = None) -> Given | None:
        """Write the first of some keys as one key of the recipe."""
        given = self.take(*keys)
        if given is not None:
            self._move(given, Foreign(here, values=values or {}))
        return given

    def refuse(self, given: Given, reason: str, *, optional: bool = False) -> RecipeError:
        """Return the error that nothing is written because of a key; one that is optional can be left out."""
        shown = short(f"{given.key} = {toml(given.value)}")
        rest = f"\nto convert the rest nevertheless: --without {given.key}" if optional else ""
        return RecipeError(f"{self.configuration.source}: {shown}: {reason}{rest}\nnothing was written")

    def finish(self) -> None:
        """Translate the keys that stand for one key each, in the configuration's order, and explain the others."""
        for key in list(self._rest):
            given = Given(key, self._rest.pop(key))
            foreign = self.tool.keys.get(key) or FOREIGN_KEYS.get(key)
            off = given.value in (False, 0, "", [], {}, "none")
            if foreign is None:
                gap, reason = (
                    (Gap.NOT_NEEDED, "off") if off else (Gap.NONE, "dpotrain does not know this key")
                )
                self.leave(given, gap, reason)
            elif foreign.gap is not None:
                if foreign.gap is Gap.NOT_NEEDED or not off:
                    self.leave(given, foreign.gap, foreign.note)
            elif foreign.here.startswith("["):
                self.leave(given, Gap.NONE, foreign.hint())
            else:
                self._move(given, foreign)

    def _move(self, given: Given, foreign: Foreign) -> None:
        value = given.value
        if foreign.values:
            if _is_among(value, foreign.values):
                value = foreign.values[value]
            elif isinstance(value, str) and value not in foreign.values.values():
                self.leave(given, Gap.NOT_SUPPORTED, f"{foreign.here} has {_listed(foreign.values.values())}")
                return
        if value is not None:
            self.put(foreign.here, value, given)


def as_names(value: Any) -> list[str]:
    """Return names that a tool takes as a list, or as text with commas."""
    items: Sequence[Any] = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def processes_text(number: int) -> str:
    """Return ``1 process``, ``2 processes``."""
    return f"{number} process{'es' * (number != 1)}"


def _is_among(value: Any, known: Mapping[Any, Any]) -> bool:
    return isinstance(value, str | int | float | bool) and value in known


def _listed(values: Collection[Any]) -> str:
    return ", ".join(f'"{value}"' for value in dict.fromkeys(values) if value is not None)
