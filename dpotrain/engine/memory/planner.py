"""What a run holds in memory, by part, and the micro-batches and checkpointed layers with which it fits.

``dpotrain run`` and ``dpotrain plan`` use the same planner. They differ in where its inputs come from: measured on the
loaded model, or counted from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dpotrain.data.batches.packing import shorten
from dpotrain.data.batches.plan import BatchPlan, Costs, steps_of_run
from dpotrain.data.tokens.tokenized import TokenizedPairs
from dpotrain.engine.layers.checkpointing import can_checkpoint, wanted_layers
from dpotrain.engine.memory.activations import Activations, Kept
from dpotrain.engine.memory.budget import FULL_TOKENS, SHARE, Fit, fit
from dpotrain.engine.memory.choice import Need
from dpotrain.engine.memory.model_size import head_bytes, trained_bytes
from dpotrain.engine.memory.shares import Share
from dpotrain.engine.scoring.precision import compute_precision
from dpotrain.engine.scoring.router_loss import Routing
from dpotrain.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What an allocator holds beyond the activations at the peak, as a share of them, until it is measured. CPU: tensors
#: that are freed leave gaps between others, and a process's memory is what its allocator has of the system; with
#: SmolLM2-135M, 0.4 to 1.0. CUDA: what is measured is allocated tensors, without gaps.
ALLOCATOR = {"cpu": 0.7, "cuda": 0.0}
#: Free memory that the copy of a checkpoint needs, in multiples of its size: writing it fills the system's caches.
COPY_ROOM = 1.5
#: Tokens that activations are recorded on, and twice as many: enough for a straight line. On CUDA the peak of a
#: backward pass is measured as well, and below some hundred tokens the tiles of the language-model head grow with them.
RECORDED_TOKENS = {"cpu": 64, "cuda": 1024}
#: Where all pairs are longer: the most tokens of one.
MOST_RECORDED_TOKENS = {"cpu": 256, "cuda": 1024}
#: Steps whose micro-batches a prediction considers.
PREDICTED_STEPS = 32
#: More tokens than any pair has.
_ANY_LENGTH = 10**9


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What was chosen, and what it was chosen from; sizes in bytes."""

    fit: Fit
    held: Mapping[str, int]
    """What the run holds whatever its micro-batches, by part."""
    activations: Activations
    available: int
    """What the device has for all of it."""
    checkpoint_copy: int
    """The copy of a checkpoint that is written while training continues; 0 where it is not in the device's memory."""
    share: Share
    """What a rank holds of the policy."""
    device: str
    """ "cpu" or "cuda"."""
    longest: int
    """Tokens that a micro-batch must be able to hold: those of the longest pair, or more where the recipe says so."""
    longest_possible: int
    """About how many tokens the longest pair may have."""
    on_host: int
    """What the rank holds in the host's memory whatever its micro-batches."""
    host: float
    """What the host has for that and for activations."""
    gathered: int
    """What the main process gathers in the host's memory for each checkpoint of sharded weights: the trained ones and
    the optimizer's state, whole; 0 where every process has them."""
    sharing: int
    """Processes that share the main process's host."""
    allocator: float = 0.0
    """What the allocator holds beyond the activations at the peak, as a share of them; nothing is chosen by it."""

    @property
    def room(self) -> int:
        """What is left for activations."""
        return self.available - sum(self.held.values())

    @property
    def need(self) -> Need:
        """What the run takes with the smallest micro-batches that it can have.

        It is enough with what is left free for fragmentation.
        """
        peak = self.fit.peak(self.activations, self.longest)
        fits = peak <= SHARE[self.device] * self.room and self.share.added_up <= self.room
        least = max(self._loading, sum(self.held.values()) + max(int(peak), self.share.added_up))
        enough = fits and self._loading <= self.available and self._host_has_room(self.on_host)
        return Need(least, self.available, enough)

    @property
    def _loading(self) -> int:
        """What is held before anything else, where that is more than shards."""
        return self.share.loading and self.share.loading + self.held.get("process", 0)

    def fits(self, batches: BatchPlan) -> bool:
        """Return whether device and host have room for the run at its peak."""
        fits = sum(self.parts(batches).values()) <= self.available
        return fits and self._host_has_room(self.host_bytes(batches))

    def _host_has_room(self, on_host: int) -> bool:
        """Whether the main process's host has room for what its processes hold there, and for a checkpoint."""
        # A CPU's memory is the host's, and is counted by part.
        gathered = 0 if self.device == "cpu" else self.gathered
        return self.sharing * on_host + gathered <= self.sharing * self.host

    def activation_bytes(self, batches: BatchPlan) -> float:
        """Return the activations of the largest micro-batch."""
        largest = max(map(max, microbatch_tokens(batches)))
        return self.fit.peak(self.activations, largest)

    def host_bytes(self, batches: BatchPlan) -> int:
        """Return what a rank holds in the host's memory at most, where its device has a memory of its own."""
        if not self.fit.on_host:
            return self.on_host
        largest = max(map(max, microbatch_tokens(batches)))
        return self.on_host + self.activations.on_host(largest, self.fit.checkpointed)

    def parts(self, batches: BatchPlan) -> dict[str, int]:
        """Return what the run holds at its peak, by part."""
        parts = {name: size for name, size in self.held.items() if size}
        activations = self.activation_bytes(batches)
        parts["activations"] = int(activations)
        if beyond := int(self.allocator * activations):
            parts["held by the allocator"] = beyond
        # Activations are gone by then.
        if (beyond := self.share.added_up - int(activations)) > 0:
            parts["gradients being added up"] = beyond
        # Without room for a copy, training waits until the checkpoint is written.
        if self.checkpoint_copy and sum(parts.values()) + COPY_ROOM * self.checkpoint_copy <= self.available:
            parts["copy of a checkpoint"] = self.checkpoint_copy
        if self.gathered and self.device == "cpu":
            parts["checkpoint in the main process"] = self.gathered
        if (beyond := self._loading - sum(parts.values())) > 0:
            parts["whole weights while they load"] = beyond
        return parts


def plan_memory(
    recipe: Recipe,
    policy: PreTrainedModel,
    share: Share,
    activations: Activations,
    costs: Costs,
    *,
    pairs: int,
    device: str,
    held: Mapping[str, int],
    available: int,
    host: float = math.inf,
    held_on_host: int = 0,
    sharing: int = 1,
) -> MemoryPlan:
    """Choose micro-batches and checkpointed layers for a policy, real or on the meta device.

    ``share`` is what a rank holds of it, and how the run is spread over devices. ``pairs`` are those of an epoch.
    ``held`` has the bytes of the loaded models and of the process, by part, to which what training adds is added here;
    ``available`` is what the device has for all of it, ``host`` what is free in the host's memory for a process whose
    device is another, with the ``held_on_host`` of a reference; ``sharing`` processes have as much there.

    Raises:
        RunError: the recipe asks for checkpointing or a router loss that the model does not support.
    """
    training, size, layout = recipe.training, share.size, share.layout
    if (routing := Routing.of(policy, training.router_loss_weight)) is not None:
        kept = activations.outside + Kept(0.0, routing.bytes_per_token)
        activations = replace(activations, outside=kept)
    optimizer = recipe.optimizer.state_bytes(share.trained)
    paged = recipe.optimizer.paged_bytes(share.trained)
    if device != "cpu":  # a CPU's memory is the host's
        optimizer -= paged
    gradients = trained_bytes(share.trained)
    bf16 = compute_precision(training.precision, device) == "bf16"
    longest = costs.longest_pair
    head = head_bytes(size, device, bf16, -(-longest // layout.context))
    held = {**held, "gradients": gradients, "optimizer": optimizer, "head": head}
    on_host = held_on_host + share.weights_on_host + trained_bytes(share.trained_on_host)
    on_host += recipe.optimizer.state_bytes(share.trained_on_host)
    wanted, layers = training.tokens_per_microbatch, training.activation_checkpointing
    if isinstance(layers, str):
        fixed = None if activations.layers and can_checkpoint(policy) else 0
    else:
        fixed = wanted_layers(policy, layers)
    full = FULL_TOKENS.get(device, 0) * layout.context
    room = SHARE[device] * (available - sum(held.values()))
    tokens = None if wanted == "auto" else wanted
    fitting = partial(
        fit,
        activations,
        room,
        device=device,
        checkpointed=fixed,
        offload=None if training.activation_offload == "auto" else training.activation_offload,
        host_room=SHARE[device] * max(0.0, host - on_host),
        full=min(full, step_tokens(costs, training.pairs_per_step) // layout.data_ranks),
    )
    chosen = fitting(longest=longest, tokens=tokens)
    frugal = fitting(longest=_ANY_LENGTH)
    steps = steps_of_run(pairs, training.pairs_per_step, training.epochs, training.steps)
    every = recipe.checkpoints.every
    # Trained weights, optimizer and a reference that moves, whole; the last checkpoint is written without a copy.
    copied = device == "cpu" and every is not None and every < steps
    whole = trained_bytes(size.trained_whole) * (1 if recipe.reference.update is None else 2)
    state = whole + recipe.optimizer.state_bytes(size.trained_whole)
    sharded = layout.shards is not None
    return MemoryPlan(
        fit=chosen,
        held=held,
        activations=activations,
        available=available,
        checkpoint_copy=state if copied and not sharded else 0,
        gathered=state if sharded else 0,
        sharing=sharing,
        share=share,
        device=device,
        longest=max(tokens or 0, longest),
        longest_possible=frugal.most_tokens(activations, room),
        on_host=on_host,
        host=host,
        allocator=ALLOCATOR.get(device, 0.0),
    )


def step_tokens(costs: Costs, pairs_per_step: int) -> int:
    """Return the tokens of a step of average pairs."""
    each = costs.alone(np.arange(len(costs.lengths)))
    return int(each.mean() * min(pairs_per_step, len(each)))


def microbatch_tokens(batches: BatchPlan) -> list[list[int]]:
    """Return the cost of each micro-batch of the first steps, of all ranks, step by step."""
    steps = replace(batches, max_steps=min(batches.total_steps, PREDICTED_STEPS)).steps()
    return [[batches.costs.of(pairs) for rank in step.microbatches for pairs in rank] for step in steps]


def pairs_to_record(
    pairs: TokenizedPairs, device: str, part: int = 1
) -> tuple[TokenizedPairs, list[int], list[int]]:
    """Return a pair, and two micro-batches to record activations on: it repeated, and the same twice as often.

    Of a long pair it is the beginning of each part: recording keeps the activations of all layers. Where they do not
    fit, ``part`` divides the tokens.
    """
    index = int(np.argmin(np.abs(pairs.lengths - RECORDED_TOKENS["cpu"])))
    pair = shorten(pairs[index], MOST_RECORDED_TOKENS[device] // part)
    times = max(1, RECORDED_TOKENS[device] // part // pair.length)
    return TokenizedPairs.of([pair], pairs.columns), [0] * times, [0] * (2 * times)
