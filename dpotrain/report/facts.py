"""What a run was, in a few labelled lines: for the head of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpotrain.core.formats import count
from dpotrain.core.loss_terms import terms_text
from dpotrain.report.past_run import PastRun


def facts(run: PastRun) -> dict[str, str]:
    """Return what was trained, on what and how, by label; what the recipe does not say is left out."""
    recipe = run.recipe
    found = {
        "model": run.model,
        "adapter": _described(recipe, "adapter", ("rank", "alpha", "last", "match"))
        or ("none: all weights" if recipe else ""),
        "quantizer": _described(recipe, "quantizer", ()),
        "data": ", ".join(part for part in (_data(recipe), _pairs(run)) if part),
        "loss": _described(recipe, "loss", ("beta", "label_smoothing")) + terms_text(_table(recipe, "loss")),
        "optimizer": _described(recipe, "optimizer", ("lr",)),
        "steps": _steps(run),
    }
    return {label: text for label, text in found.items() if text}


def _table(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = recipe.get(name)
    return table if isinstance(table, dict) else {}


def _described(recipe: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> str:
    table = _table(recipe, name)
    if not isinstance(use := table.get("use"), str):
        return ""
    given = [f"{key} {_value(table[key])}" for key in keys if table.get(key)]
    return ", ".join([use, *given])


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _data(recipe: Mapping[str, Any]) -> str:
    table = _table(recipe, "data")
    name = table.get("name", table.get("use"))
    names = name if isinstance(name, list) else [name]
    return ", ".join(
        Path(each).name if Path(each).is_absolute() else each for each in names if isinstance(each, str)
    )


def _pairs(run: PastRun) -> str:
    if run.data is None:
        return ""
    held = run.data.evaluation_pairs
    return f"{count(run.data.train_pairs)} pairs" + (
        f" and {count(held)} held out" if held else ", none held out"
    )


def _steps(run: PastRun) -> str:
    training = _table(run.recipe, "training")
    pairs, epochs = training.get("pairs_per_step"), training.get("epochs")
    total = f" of {count(run.total_steps)}" if run.total_steps and run.total_steps != run.step else ""
    parts = [f"{count(run.step)}{total}"]
    parts += [f"{pairs} pairs each"] if pairs else []
    parts += [f"{epochs:g} epoch{'s' * (epochs != 1)}"] if isinstance(epochs, int | float) and epochs else []
    return ", ".join(parts)
