"""What accelerate's parallelism configuration asks for, in the terms of a recipe's ``[parallel]``.

``accelerate launch --use_parallelism_config`` hands on how many processes share copies of the weights
(``dp_replicate``, ``dp_shard``) and the tokens of a pair (``cp``). Processes that share tokens share the weights, too.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpotrain.core.errors import RecipeError
from dpotrain.engine.parallel.accelerate_config import contradiction

if TYPE_CHECKING:
    from dpotrain.recipe.sections.parallel import ParallelSection

#: Says whether there is such a configuration.
_USED = "ACCELERATE_USE_PARALLELISM_CONFIG"
_PREFIX = "PARALLELISM_CONFIG_"
#: Sizes of what is not offered here.
_REFUSED = {"tp": "tensor parallelism", "sp": "sequence parallelism"}


@dataclass(frozen=True, slots=True)
class ParallelismConfig:
    """Such a configuration."""

    replicate: int
    """Copies of the weights."""
    shard: int
    """Processes among which, with those of ``context``, each copy is split."""
    context: int
    """Processes that share the tokens of a pair."""

    @property
    def source(self) -> str:
        """The sizes, as people write them."""
        keys = {"dp_replicate": self.replicate, "dp_shard": self.shard, "cp": self.context}
        return ", ".join(f"parallelism_config_{key}_size: {size}" for key, size in keys.items())

    def with_recipe(self, recipe: ParallelSection) -> list[str]:
        """Return overrides of a recipe's ``[parallel]``; its "auto" and defaults leave them to this.

        Raises:
            RecipeError: they contradict each other.
        """
        shards = self.shard * self.context
        shard = "none" if shards == 1 else "all"
        group = shards if self.replicate > 1 and shards > 1 else None
        if recipe.shard not in ("auto", shard):
            raise contradiction(f'parallel.shard = "{recipe.shard}"', self.source)
        if recipe.group not in (None, group):
            raise contradiction(f"parallel.group = {recipe.group}", self.source)
        if recipe.context not in (1, self.context):
            raise contradiction(f"parallel.context = {recipe.context}", self.source)
        overrides = [f'parallel.shard="{shard}"']
        overrides += [] if group is None else [f"parallel.group={group}"]
        return [*overrides, *[f"parallel.context={self.context}"] * (self.context > 1)]


def take_parallelism_config(environment: MutableMapping[str, str]) -> ParallelismConfig | None:
    """Return the configuration that ``accelerate launch`` was given, and take the request out of ``environment``.

    None without one. Libraries that find it there would divide the model, or fail, by themselves.

    Raises:
        RecipeError: it asks for what is not offered here, or for another number of processes.
    """
    if environment.pop(_USED, "").lower() != "true":
        return None
    for name, what in _REFUSED.items():
        if _size(environment, name) > 1:
            raise RecipeError(
                f"the accelerate configuration has parallelism_config_{name}_size: {_size(environment, name)}, and "
                f"dpotrain offers no {what}.\n"
                "Remove it. parallelism_config_dp_shard_size shards the weights over processes, and "
                "parallelism_config_cp_size divides pairs over them."
            )
    found = ParallelismConfig(*(_size(environment, name) for name in ("dp_replicate", "dp_shard", "cp")))
    asked, processes = found.replicate * found.shard * found.context, environment.get("WORLD_SIZE", "1")
    if str(asked) != processes:
        raise RecipeError(
            f"the accelerate configuration has {found.source}, which takes {asked} processes, and this run has "
            f"{processes}.\nSet them to numbers whose product is num_processes."
        )
    return found


def _size(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(f"{_PREFIX}{name.upper()}_SIZE", "1")
    if not value.isdecimal() or int(value) < 1:
        raise RecipeError(
            f"the accelerate configuration has parallelism_config_{name}_size: {value}.\nSet it to a whole number > 0."
        )
    return int(value)
