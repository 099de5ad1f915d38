"""Weights with a learning rate or weight decay of their own, by name: ``[[optimizer.groups]]``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from dpotrain.core.errors import RecipeError
from dpotrain.core.formats import count
from dpotrain.plugin.api.optimizer import Optimizer, WeightGroup

if TYPE_CHECKING:
    import torch

#: Names that an error lists, those of all layers as one.
_LISTED = 20


def assign(groups: Sequence[WeightGroup], names: Sequence[str]) -> dict[str, int]:
    """Return the group of each weight that one matches, by name; the first that does counts.

    Raises:
        RecipeError: a group has no weight.
    """
    found: dict[str, int] = {}
    for name in names:
        matching = (place for place, group in enumerate(groups) if fnmatchcase(name, group.match))
        if (place := next(matching, None)) is not None:
            found[name] = place
    for place, group in enumerate(groups):
        if place in found.values():
            continue
        what = f'optimizer.groups.{place}: match = "{group.match}" matches'
        if any(fnmatchcase(name, group.match) for name in names):
            raise RecipeError(
                f"{what} only weights that earlier groups match, and the first that matches counts.\n"
                "Move it before them, or remove it."
            )
        raise RecipeError(
            f"{what} none of the {count(len(names))} trained weights, which are called\n" + _listed(names)
        )
    return found


def split_groups(
    chosen: Optimizer, optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.nn.Parameter]
) -> Iterator[str]:
    """Split the parameter groups of an optimizer by the recipe's groups; yield what each has, for a person.

    A parameter group keeps its place and the weights that no group matches; after it come those that one does, in the
    recipe's order, with its other settings. So the order follows from the recipe and the model, as a resumed run needs
    it. Without groups in the recipe nothing changes.

    Raises:
        RecipeError: a group has no weight, or a weight decay where the optimizer has none.
    """
    groups = chosen.options.groups
    if not groups:
        return
    place_of = {id(weights[name]): place for name, place in assign(groups, list(weights)).items()}
    split: list[dict[str, Any]] = []
    for param_group in optimizer.param_groups:
        for place in (None, *range(len(groups))):
            inside = [place_of.get(id(weight)) == place for weight in param_group["params"]]
            if any(inside):
                part = _part(param_group, inside)
                split.append(part if place is None else part | _settings(chosen, param_group, place))
    optimizer.param_groups[:] = split
    for place, group in enumerate(groups):
        own = [
            f"{key} = {value:g}"
            for key in ("lr", "weight_decay")
            if (value := getattr(group, key)) is not None
        ]
        number = sum(each == place for each in place_of.values())
        yield (
            f'optimizer.groups.{place}: {count(number)} of {count(len(weights))} weights match "{group.match}": '
            + (", ".join(own))
        )


def _part(param_group: dict[str, Any], inside: Sequence[bool]) -> dict[str, Any]:
    """Return a parameter group with some of its weights; torch keeps their names beside them, if it was given any."""
    kept = {
        key: [value for value, chosen in zip(param_group[key], inside, strict=True) if chosen]
        for key in ("params", "param_names")
        if key in param_group
    }
    return param_group | kept


def _settings(chosen: Optimizer, param_group: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return what a group of the recipe changes in the part of a parameter group."""
    group, lr = chosen.options.groups[place], param_group["lr"]
    settings: dict[str, Any] = {}
    if group.lr is not None:
        # A component may have given the group a rate of its own, as LoRA+ does: it keeps its ratio to the others.
        settings["lr"] = group.lr if lr == chosen.options.lr else lr * (group.lr / chosen.options.lr)
    if group.weight_decay is not None:
        if "weight_decay" not in param_group:
            raise RecipeError(
                f'optimizer.groups.{place}: the optimizer "{chosen.name}" has no weight decay; remove weight_decay'
            )
        settings["weight_decay"] = group.weight_decay
    return settings


def _listed(names: Sequence[str]) -> str:
    """Return names as lines, those that differ in numbers as one pattern."""
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
    more = len(patterns) - _LISTED
    lines = [f"  {pattern}" for pattern in patterns[:_LISTED]]
    return "\n".join([*lines, f"  and {count(more)} more"] if more > 0 else lines)
