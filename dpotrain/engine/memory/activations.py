"""What a micro-batch keeps for its backward pass, in bytes: measured on the model, or estimated from its shapes.

Everything here is linear in the tokens of a micro-batch: a constant (for example weights that autocast cast) and bytes
per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpotrain.core.random_state import RandomState
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.scoring.scorer import Scorer, causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Beside what is kept, the backward pass of a feed-forward block holds about four tensors as wide as the widest kept
#: one: two gradients that came in, and two that go out.
TEMPORARY_TENSORS = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that grow with the tokens of a micro-batch."""

    constant: float = 0.0
    per_token: float = 0.0

    @classmethod
    def through(cls, tokens: int, held: int, more_tokens: int, more_held: int) -> Kept:
        """Return the line through two measurements; never one that falls."""
        slope = max(0.0, (more_held - held) / (more_tokens - tokens))
        return cls(max(0.0, held - slope * tokens), slope)

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.constant + other.constant, self.per_token + other.per_token)

    def of(self, tokens: int) -> float:
        """Bytes of a micro-batch."""
        return self.constant + self.per_token * tokens

    def most_tokens(self, room: float) -> float:
        """Tokens whose bytes fit into ``room``; infinite where a token takes none."""
        left = room - self.constant
        return left / self.per_token if self.per_token else (float("inf") if left >= 0 else 0.0)


@dataclass(frozen=True, slots=True)
class Activations:
    """What a micro-batch keeps, by where in the model it is kept."""

    outside: Kept
    """Of embeddings, last norm and language-model head."""
    layers: tuple[Kept, ...]
    """Of each decoder layer; empty where the model does not declare its layers."""
    inputs: tuple[Kept, ...]
    """What a layer keeps instead where it is checkpointed: its input."""
    temporary: Kept
    """Of the backward pass, freed again within it."""

    def peak(self, tokens: int, checkpointed: int) -> float:
        """Return the most bytes at once with the first ``checkpointed`` layers computed again."""
        return max(case.of(tokens) for case in self._cases(checkpointed))

    def most_tokens(self, room: float, checkpointed: int) -> int:
        """Return how many tokens fit into ``room`` bytes."""
        return int(min(1e9, max(0.0, min(case.most_tokens(room) for case in self._cases(checkpointed)))))

    def _cases(self, checkpointed: int) -> Iterator[Kept]:
        """Yield what may be the peak: the end of the forward pass, and the backward pass of each checkpointed layer."""
        common = total([self.outside, self.temporary, *self.inputs[:checkpointed]])
        yield common + total(self.layers[checkpointed:])
        for layer in self.layers[:checkpointed]:
            yield common + layer


def total(parts: Iterable[Kept]) -> Kept:
    """Return the sum."""
    return sum(parts, Kept())


def measure(scorer: Scorer, one: PackedPairs, two: PackedPairs, tokens: tuple[int, int]) -> Activations:
    """Measure what a forward pass with gradients keeps, on two micro-batches of different size.

    On CUDA a backward pass follows, and its peak replaces the estimate of temporary tensors. Gradients are
    discarded and random states restored: nothing changes.

    ``scorer`` is the policy's, nothing checkpointed yet; ``two`` is larger than ``one``, best the same pairs twice, and
    ``tokens`` are what both cost (see :class:`dpotrain.data.batches.plan.Costs`).
    """
    random_before = RandomState.capture()
    try:
        first, second = (record(scorer, batch, scorer) for batch in (one, two))
        found = fit_lines(first, second, tokens)
        if one.input_ids.is_cuda:
            found = _with_measured_peak(found, scorer, (one, two), tokens)
        return found
    finally:
        random_before.restore()


def fit_lines(first: SavedTensors, second: SavedTensors, tokens: tuple[int, int]) -> Activations:
    """Return the lines through two measurements."""

    def line(less: int, more: int) -> Kept:
        return Kept.through(tokens[0], less, tokens[1], more)

    return Activations(
        outside=line(first.outside, second.outside),
        layers=tuple(map(line, first.layers, second.layers)),
        inputs=tuple(map(line, first.inputs, second.inputs)),
        temporary=Kept(0.0, TEMPORARY_TENSORS * line(first.widest, second.widest).per_token),
    )


class SavedTensors:
    """Bytes that one forward pass saves for its backward pass; every storage counted once, weights never."""

    def __init__(self, model: nn.Module, batch: PackedPairs) -> None:
        self.modules = decoder_layers(model)
        self.outside = self.widest = 0
        self.layers = [0] * len(self.modules)
        self.inputs = [0] * len(self.modules)
        self._inside: int | None = None
        given = [*model.parameters(), *model.buffers(), batch.input_ids, batch.position_ids]
        given += [batch.predicting, batch.targets, batch.scored_tokens]
        # Holds the storages, so that none is freed and its address used by another.
        self._seen = {tensor.untyped_storage()._cdata: tensor for tensor in given}

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor that autograd saves, and return it detached.

        Attached, a function that saves its own output would be in a reference cycle that the garbage collector cannot
        see, and never be freed, nor anything before it.
        """
        identity = tensor.untyped_storage()._cdata
        if identity not in self._seen:
            self._seen[identity] = tensor.detach()
            size = tensor.untyped_storage().nbytes()
            self.widest = max(self.widest, size)
            if self._inside is None:
                self.outside += size
            else:
                self.layers[self._inside] += size
        return tensor.detach()

    @contextmanager
    def watching_layers(self) -> Iterator[None]:
        """Track inside this context which layer is computing."""
        handles = []
        for number, layer in enumerate(self.modules):

            def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], at: int = number) -> None:
                self._inside = at
                tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
                self.inputs[at] = tensors[0].nbytes if tensors else 0

            def leave(*_: Any) -> None:
                self._inside = None

            handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(layer.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def record(model: nn.Module, batch: PackedPairs, forward: Callable[[PackedPairs], Any]) -> SavedTensors:
    """Run ``forward`` on a micro-batch and return what it saves for its backward pass."""
    saved = SavedTensors(model, batch)
    with saved.watching_layers(), torch.autograd.graph.saved_tensors_hooks(saved.save, lambda tensor: tensor):
        forward(batch)
    # A layer that saves nothing has nothing trained in it or before it, and its input is not kept either.
    saved.inputs = [size if kept else 0 for size, kept in zip(saved.inputs, saved.layers, strict=True)]
    return saved


def _with_measured_peak(
    found: Activations, scorer: Scorer, batches: tuple[PackedPairs, PackedPairs], tokens: tuple[int, int]
) -> Activations:
    """Replace the estimate of temporary tensors by what CUDA's allocator saw beyond what is kept."""
    trained = [weight for weight in scorer.parameters() if weight.requires_grad]
    beyond = []
    # The first pass also allocates what libraries keep for good.
    for batch, count in ((batches[0], tokens[0]), *zip(batches, tokens, strict=True)):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        scorer(batch).sum().backward()
        gradients = sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
        for weight in trained:
            weight.grad = None
        kept = total([found.outside, *found.layers]).of(count)
        beyond.append(max(0, int(torch.cuda.max_memory_allocated() - before - gradients - kept)))
    temporary = Kept.through(tokens[0], beyond[1], tokens[1], beyond[2])
    return Activations(found.outside, found.layers, found.inputs, temporary)


def estimate(model: PreTrainedModel, bf16: bool) -> Activations:
    """Estimate from the configuration, where nothing can be measured.

    Per layer and token, in units of the hidden size h and the feed-forward size f: two norms' inputs in
    float32 and their outputs (12 h), queries, keys, values, output (8 h), residual sums (4 h), gate, up and
    product (6 f), in bytes of bfloat16 products; twice that in float32.
    """
    config = causal_lm(model).config.get_text_config()
    hidden = int(config.hidden_size)
    feed_forward = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    scale = 1 if bf16 else 2
    count = int(config.num_hidden_layers)
    layer = Kept(0.0, scale * (24 * hidden + 6 * feed_forward * experts))
    return Activations(
        outside=Kept(0.0, 16.0 * hidden),
        layers=(layer,) * count,
        inputs=(Kept(0.0, 4.0 * hidden),) * count,
        temporary=Kept(0.0, scale * TEMPORARY_TENSORS * 2.0 * max(feed_forward * experts, hidden)),
    )
