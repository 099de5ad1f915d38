"""What of a recipe a resumed run may not change: whatever the sequence of losses depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dpotrain.core.errors import RunError
from dpotrain.core.masking import MASK
from dpotrain.plugin.api import KINDS, Kind, Selection
from dpotrain.recipe.flat import flat

#: Tables and keys that a resumed run may change: they move files, speed or the end of the run. (Where a schedule
#: falls over the whole run its end matters to the steps as well; the run warns of that.)
FREE = frozenset(
    {
        "run",
        "requires",
        "block",
        "evaluation",
        "samples",
        "checkpoints",
        "logging",
        "parallel",
        "reference.when",
        "reference.store",
        "training.epochs",
        "training.steps",
        "training.tokens_per_microbatch",
        "training.packing",
        "training.on_nonfinite",
        "training.activation_checkpointing",
        "training.activation_offload",
        "training.compile",
        *(kind.table for kind in KINDS if not kind.changes_steps),
    }
)


def free_options(recipe: Selection, kinds: Iterable[Kind]) -> frozenset[str]:
    """Return the tables and keys of plugins that a resumed run may change: ``{"judges", "data.samples"}``."""
    tables = frozenset(kind.table for kind in kinds if not kind.changes_steps)
    return tables | frozenset(
        f"{table}.{option}"
        for table, parts in recipe.parts.items()
        for part in parts
        for option in part.free_on_resume
    )


def resume_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's keys that the sequence of losses depends on, flat: ``{"loss.beta": 0.1, …}``."""
    return {key: value for key, value in flat(document) if not _among(key, FREE)}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], free: frozenset[str] = frozenset()) -> None:
    """Compare two results of :func:`resume_config`, but for what :func:`free_options` returned.

    Raises:
        RunError: they differ, with the keys and both values.
    """
    missing = object()
    changed = [
        (key, before.get(key, missing), now.get(key, missing))
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
        and not _among(key, free)
        and not (_masked(before.get(key)) or _masked(now.get(key)))
    ]
    if not changed:
        return

    def shown(value: Any) -> str:
        return "nothing" if value is missing else repr(value)

    lines = [f"  {key}: {shown(old)} then, {shown(new)} now" for key, old, new in changed]
    raise RunError(
        "the recipe is not the one that this run was begun with, and the difference would change its steps:\n"
        + "\n".join(lines)
        + "\nPut these back, or begin a new run: --set run.output_dir=…"
    )


def _masked(value: Any) -> bool:
    """Whether a value holds a secret: it changes no step, and may have been known as one in one of two recipes only."""
    return MASK in str(value)


def _among(key: str, free: frozenset[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in free)
