"""What a micro-batch keeps for its backward pass, in bytes: measured on the model, or estimated from its shapes.

Everything here is linear in the tokens of a micro-batch: a constant (for example weights that autocast cast) and bytes
per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from dpotrain.core.random_state import RandomState
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.layers.offloading import ON_DEVICE, host_bytes
from dpotrain.engine.layers.tiling import per_token_modules
from dpotrain.engine.memory.device_memory import release_memory
from dpotrain.engine.memory.recording import SavedBytes, record
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

    def tiled(self, per_token: float, tile: int) -> Kept:
        """Return the line of longer micro-batches, of which so much of a token is only kept of ``tile`` tokens."""
        return Kept(self.constant + per_token * tile, self.per_token - per_token)

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
    tiled: tuple[float, ...] = ()
    """Bytes per token of each layer that are inside modules which can be computed in tiles, and gone where they are
    (see :mod:`dpotrain.engine.layers.tiling`); empty where none can."""
    temporary_tiled: float = 0.0
    """Bytes per token of ``temporary``, likewise."""
    context: int = 1
    """Ranks that share the tokens of a micro-batch; what is given per token is of a rank's own."""

    def peak(self, tokens: int, checkpointed: int, tile: int = 0, on_host: bool = False) -> float:
        """Return the most bytes at once with the first ``checkpointed`` layers computed again.

        ``tile`` is of how many tokens tiles are, 0 without; ``on_host`` whether the inputs of checkpointed layers are
        in the host's memory, which is not counted here.
        """
        tokens = self._of_rank(tokens)
        tile = tile if tokens > tile else 0
        return max(case.of(tokens) for case in self._cases(checkpointed, tile, on_host))

    def most_tokens(self, room: float, checkpointed: int, tile: int = 0, on_host: bool = False) -> int:
        """Return how many tokens fit into ``room`` bytes."""

        def fitting(tile: int) -> float:
            cases = self._cases(checkpointed, tile, on_host)
            return max(0.0, min(case.most_tokens(room) for case in cases))

        most = fitting(tile)
        if tile and most <= tile:  # such rows are computed whole
            most = min(tile, fitting(0))
        return int(min(1e9, most)) * self.context

    def on_host(self, tokens: int, checkpointed: int) -> int:
        """Return the bytes that the inputs of checkpointed layers take in the host's memory."""
        tokens = self._of_rank(tokens)
        return sum(host_bytes(each.of(tokens)) for each in self.inputs[:checkpointed])

    def _of_rank(self, tokens: int) -> int:
        """Return the tokens of a rank, of so many of a micro-batch."""
        return -(-tokens // self.context)

    def _cases(self, checkpointed: int, tile: int, on_host: bool) -> Iterator[Kept]:
        """Yield what may be the peak: the end of the forward pass, and the backward pass of each checkpointed layer."""
        layers, temporary = self.layers, self.temporary
        if tile:
            layers = tuple(layer.tiled(part, tile) for layer, part in zip(layers, self.tiled, strict=True))
            temporary = temporary.tiled(self.temporary_tiled, tile)
        inputs = self.inputs[:checkpointed]
        if on_host:
            inputs = inputs[:ON_DEVICE]
        common = total([self.outside, temporary, *inputs])
        yield common + total(layers[checkpointed:])
        for layer in layers[:checkpointed]:
            yield common + layer


def total(parts: Iterable[Kept]) -> Kept:
    """Return the sum."""
    return sum(parts, Kept())


def measure(
    scorer: Scorer,
    one: PackedPairs,
    two: PackedPairs,
    tokens: tuple[int, int],
    per_token: Sequence[Sequence[nn.Module]] = (),
) -> Activations:
    """Measure what a forward pass with gradients keeps, on two micro-batches of different size.

    On CUDA backward passes follow, and their peak replaces the estimate of temporary tensors. Gradients are
    discarded and random states restored: nothing changes.

    ``scorer`` is the policy's, nothing checkpointed yet; ``two`` is larger than ``one``, best the same pairs twice, and
    ``tokens`` are what both cost (see :class:`dpotrain.data.batches.plan.Costs`). ``per_token`` are the modules of each
    layer that can be computed in tiles.
    """
    random_before = RandomState.capture()
    try:
        first = record(scorer, one, scorer, per_token)
        if one.input_ids.is_cuda:  # nothing of one pass may be in memory beside the next
            release_memory()
        second = record(scorer, two, scorer, per_token)
        found = fit_lines(first, second, tokens)
        if second.compiled and any(per_token):
            found = _with_estimated_tiles(found, estimate(scorer.policy, scorer.bf16))
        if one.input_ids.is_cuda:
            release_memory()
            found = _with_measured_peak(found, scorer, (one, two), tokens)
        return found
    finally:
        random_before.restore()


def fit_lines(first: SavedBytes, second: SavedBytes, tokens: tuple[int, int]) -> Activations:
    """Return the lines through two measurements."""

    def line(less: int, more: int) -> Kept:
        return Kept.through(tokens[0], less, tokens[1], more)

    temporary, untiled = (
        TEMPORARY_TENSORS * line(less, more).per_token
        for less, more in ((first.widest, second.widest), (first.widest_untiled, second.widest_untiled))
    )
    return Activations(
        outside=line(first.outside, second.outside),
        layers=tuple(map(line, first.layers, second.layers)),
        inputs=tuple(map(line, first.inputs, second.inputs)),
        temporary=Kept(0.0, temporary),
        tiled=tuple(line(less, more).per_token for less, more in zip(first.tiled, second.tiled, strict=True)),
        temporary_tiled=temporary - untiled if any(first.tiled) else 0.0,
    )


def _with_estimated_tiles(found: Activations, estimated: Activations) -> Activations:
    """Take of compiled layers, whose modules are not seen, the share that is gone in tiles from an estimate."""
    shares = [part / layer.per_token for part, layer in zip(estimated.tiled, estimated.layers, strict=True)]
    share = estimated.temporary_tiled / estimated.temporary.per_token
    return replace(
        found,
        tiled=tuple(part * layer.per_token for part, layer in zip(shares, found.layers, strict=True)),
        temporary_tiled=share * found.temporary.per_token,
    )


def _with_measured_peak(
    found: Activations, scorer: Scorer, batches: tuple[PackedPairs, PackedPairs], tokens: tuple[int, int]
) -> Activations:
    """Replace the estimate of temporary tensors by what CUDA's allocator saw beyond what is kept.

    Gradients are in place, as in every micro-batch of a step but the first: while they come into being, activations are
    freed, and no moment has all of both.
    """
    trained = [weight for weight in scorer.parameters() if weight.requires_grad]
    beyond = []
    try:
        scorer(batches[0]).sum().backward()  # allocates gradients, and what libraries keep for good
        for batch, count in zip(batches, tokens, strict=True):
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            scorer(batch).sum().backward()
            kept = total([found.outside, *found.layers]).of(count)
            beyond.append(max(0, int(torch.cuda.max_memory_allocated() - before - kept)))
    finally:
        for weight in trained:
            weight.grad = None
    temporary = Kept.through(tokens[0], beyond[0], tokens[1], beyond[1])
    # Of the measured bytes, the share that it has of the estimated ones.
    share = found.temporary_tiled / found.temporary.per_token if found.temporary.per_token else 0.0
    return replace(found, temporary=temporary, temporary_tiled=share * temporary.per_token)


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
    widest = scale * TEMPORARY_TENSORS * 2.0 * max(feed_forward * experts, hidden)
    per_token = per_token_modules(model)
    tiles = any(
        isinstance(part, nn.Linear)
        for modules in per_token
        for module in modules
        for part in module.modules()
    )
    return Activations(
        outside=Kept(0.0, 16.0 * hidden),
        layers=(layer,) * count,
        inputs=(Kept(0.0, 4.0 * hidden),) * count,
        temporary=Kept(0.0, widest),
        tiled=(scale * 6.0 * feed_forward * tiles,) * count,
        temporary_tiled=(widest - scale * TEMPORARY_TENSORS * 2.0 * hidden) * tiles,
    )
