"""The fewest changes to a recipe with which a run fits, and the GPUs that would do.

Sets of changes are tried in the order of their harm: all that leave the results as they are come before the first that
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dpotrain.core.errors import DpotrainError
from dpotrain.plugin.api import Adapter, Quantizer
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.planning.description import Description
from dpotrain.run.planning.remedies import half_lengths, smaller_optimizer

GIGABYTE = 2**30
#: Memory of common GPUs, in GB.
SIZES = (8, 12, 16, 24, 40, 48, 80, 96, 141, 192)


@dataclass(frozen=True, slots=True)
class Changes:
    """Overrides that make a run fit."""

    overrides: tuple[str, ...]
    """As ``--set`` takes them; none where it fits as it is."""
    same_results: bool
    """Whether the run computes the same numbers with them."""


@dataclass(frozen=True, slots=True)
class SmallestGpus:
    """The smallest of :data:`SIZES` that would do, in GB; None where none is large enough."""

    as_is: int | None
    with_changes: int | None
    """None, too, where it is not smaller."""
    changes: Changes | None


def changes_that_fit(
    recipe: Recipe, described: Description, fits: Callable[[Sequence[str]], bool]
) -> Changes | None:
    """Return the least harmful set of changes for which ``fits`` is true; None where not even all are enough.

    ``fits`` may raise a DpotrainError for changes that do not go together.
    """
    found = list(_candidates(recipe, described))
    # The number whose bits say which are in a set: the sum of a harmful one exceeds those of all before it.
    for number in range(1, 2 ** len(found)):
        chosen = [each for place, each in enumerate(found) if number >> place & 1]
        overrides = tuple(override for overrides, _ in chosen for override in overrides)
        if _tried(fits, overrides):
            return Changes(overrides, all(same for _, same in chosen))
    return None


def smallest_gpus(
    recipe: Recipe, described: Description, fits: Callable[[Sequence[str], int], bool]
) -> SmallestGpus:
    """Return which GPUs would do; ``fits`` says so for overrides and a size in GB."""
    as_is = next((size for size in SIZES if _tried(lambda more: fits(more, size), ())), None)  # noqa: B023
    everything = [override for overrides, _ in _candidates(recipe, described) for override in overrides]
    for size in SIZES:
        if as_is is not None and size >= as_is:
            break
        # More changes never take more memory, so a size for which all are not enough is passed over at once.
        if everything and _tried(lambda more: fits(more, size), everything):  # noqa: B023
            changes = changes_that_fit(recipe, described, lambda more: fits(more, size))  # noqa: B023
            return SmallestGpus(as_is, size, changes)
    return SmallestGpus(as_is, None, None)


def _tried(fits: Callable[[Sequence[str]], bool], overrides: Sequence[str]) -> bool:
    try:
        return fits(overrides)
    except DpotrainError:  # they do not go together
        return False


def _candidates(recipe: Recipe, described: Description) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield overrides that save memory together, and whether results stay the same; the least harmful first."""
    training = recipe.training
    if training.tokens_per_microbatch != "auto":
        yield ("training.tokens_per_microbatch=auto",), True
    if training.activation_checkpointing not in (True, "auto"):  # "auto" uses as many layers as are needed
        yield ("training.activation_checkpointing=true",), True
    if (smaller := smaller_optimizer(recipe)) is not None:
        yield (f"optimizer.use={smaller.name}",), False
    if recipe.adapter is None and (adapters := recipe.plugins.names(Adapter)):
        yield (f"adapter.use={adapters[0]}",), False
    if recipe.quantizer is None and (name := _fewest_bits(recipe, described)):
        yield (f"quantizer.use={name}",), False
    yield tuple(f"{key}={value}" for key, value in half_lengths(recipe).items()), False


def _fewest_bits(recipe: Recipe, described: Description) -> str | None:
    """Return the quantizer of the fewest bits a weight; None without one that says how many it takes."""
    found = {}
    for name in recipe.plugins.names(Quantizer):
        kind: type[Quantizer] = recipe.plugins.find(Quantizer, name)
        try:
            part: Quantizer = kind(kind.Options())
            part.check()
            bits = part.bits(described.policy)
        except Exception:  # its packages are missing, or it wants options
            continue
        if bits:
            found[name] = sum(bits.values()) / len(bits)
    return min(found, key=found.__getitem__, default=None)
