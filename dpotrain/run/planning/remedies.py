"""What makes a run smaller that does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.engine.memory.model_size import trained_bytes
from dpotrain.engine.memory.planner import MemoryPlan
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.plugin.api import Optimizer
from dpotrain.recipe.recipe import Recipe

#: Parameters of a LoRA adapter of usual rank, as a share of the model's.
_USUAL_ADAPTER = 0.01
#: Bits of a weight in 4-bit blocks, scales included (arXiv:2305.14314, section 3).
_FOUR_BITS = 4.127


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that makes a run smaller."""

    what: str
    saves: int
    """Bytes, with everything else as it is."""


def find_remedies(recipe: Recipe, planned: MemoryPlan, batches: BatchPlan, device: str) -> list[Remedy]:
    """Return the changes that save memory of each device, in the order in which to try them.

    ``device`` is "cpu" or "cuda".
    """
    found = []
    share, size = planned.share, planned.share.size
    activations, chosen = planned.activations, planned.fit
    peak, longest = planned.activation_bytes(batches), batches.costs.longest_pair
    if recipe.training.tokens_per_microbatch != "auto":
        single = chosen.peak(activations, longest)
        found.append(Remedy('training.tokens_per_microbatch = "auto"', int(peak - single)))
    if chosen.checkpointed < chosen.layers:
        all_layers = peak - replace(chosen, checkpointed=chosen.layers).peak(activations, longest)
        found.append(Remedy("training.activation_checkpointing = true", int(all_layers)))
    training = recipe.training
    if device == "cuda" and training.activation_offload is False and training.activation_checkpointing:
        on_host = peak - replace(chosen, checkpointed=chosen.layers, on_host=True).peak(activations, longest)
        found.append(Remedy("training.activation_offload = true", int(on_host)))
    state = recipe.optimizer.state_bytes(share.trained)
    smaller = smaller_optimizer(recipe)
    if smaller is not None and (share.layout.shards is None or smaller.elementwise):
        saved = state - smaller.state_bytes(share.trained)
        found.append(Remedy(f'optimizer.use = "{smaller.name}"', saved))
    # Gradients, and the copy that a live reference has.
    copies = 1 + (ReferencePlan.of(recipe).model == "second copy")
    trained = copies * trained_bytes(share.trained) + state
    if recipe.adapter is None:
        left = int(size.parameters * _USUAL_ADAPTER) * 16
        found.append(Remedy("an [adapter] instead of all weights", trained - left))
    quantizable = share.layout.shards is None and (recipe.adapter is None or not recipe.trains_in_place)
    if recipe.quantizer is None and quantizable:
        inside = size.parameters - size.trained_parameters * (recipe.adapter is not None) - 2 * size.head
        each = size.bytes / max(1, size.parameters) - _FOUR_BITS / 8
        what = "[quantizer] of 4 bits" + ("" if recipe.adapter is not None else ", with an [adapter]")
        found.append(Remedy(what, int(max(0, inside) * each)))
    shorter = peak - chosen.peak(activations, longest // 2)
    what = " and ".join(f"{key} = {value}" for key, value in half_lengths(recipe).items())
    found.append(Remedy(what, int(shorter)))
    return [remedy for remedy in found if remedy.saves > 0]


def half_lengths(recipe: Recipe) -> dict[str, int]:
    """Return the keys that bound lengths, halved: the prompt's too, so that answers keep their share."""
    data = recipe.data
    found = {"data.max_length": data.max_length // 2}
    if data.max_prompt_length is not None:
        found["data.max_prompt_length"] = max(1, min(data.max_prompt_length, data.max_length - 2) // 2)
    return found


def smaller_optimizer(recipe: Recipe) -> Optimizer | None:
    """Return the optimizer that the recipe's own names as the smaller one, where it is there."""
    name = recipe.optimizer.smaller
    if name is None or name not in recipe.plugins.names(Optimizer):
        return None
    kind: type[Optimizer] = recipe.plugins.find(Optimizer, name)
    options = recipe.optimizer.options.model_dump()
    return kind(
        kind.Options(**{key: options[key] for key in options.keys() & kind.Options.model_fields.keys()})
    )
