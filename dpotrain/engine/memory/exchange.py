"""What devices send each other in a step, in bytes, by formula.

By the ring algorithms of NCCL a rank of n sends (n-1)/n of what it gathers or scatters, and 2(n-1)/n of what all ranks
add up; with an exchange of all with all (n-1)/n of what it holds.

Left out is what is small beside this: sums and flags of a step, which hosts exchange, the norm of sharded gradients,
and the log-probs that a context group adds up, a few bytes a scored token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dpotrain.engine.memory.layout import Layout
from dpotrain.engine.memory.shares import Matrix, Share
from dpotrain.engine.scoring.scorer import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Bytes of a number in which gradients are added up, however few their weights have.
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class AttentionSize:
    """What the attention of a model reads and writes for one token."""

    layers: int
    heads: int
    """0 of models without attention."""
    groups: int
    """Key-value heads."""
    width: int
    """Numbers of a head."""
    bytes_each: int
    """Bytes of a number."""

    @classmethod
    def of(cls, policy: PreTrainedModel, bf16: bool) -> AttentionSize:
        """Read the configuration of a model that computes in bfloat16, or else in float32."""
        config = causal_lm(policy).config.get_text_config()
        heads = int(getattr(config, "num_attention_heads", None) or 0)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
        return cls(int(config.num_hidden_layers), heads, groups, width, 2 if bf16 else 4)

    def bytes(self, context: int) -> int:
        """Return the bytes of a token's queries, keys, values and outputs, over all layers.

        Key-value heads are repeated until each of ``context`` ranks has some.
        """
        groups = math.lcm(self.groups, context) if self.heads else 0
        return self.layers * 2 * (self.heads + groups) * self.width * self.bytes_each


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a rank computes in a step, on average."""

    microbatches: float
    tokens: float
    """Of the rank's pairs; with context parallelism, of those that its context group shares."""
    passes: float
    """Forward passes of the policy without gradients over each micro-batch: as the reference, and for a loss over the
    whole step."""
    reached: float
    """Share of the layers that the backward pass goes through, the last ones."""
    recomputed: float
    """Share of the layers that are checkpointed, the first ones."""
    attention: AttentionSize


@dataclass(frozen=True, slots=True)
class Beside:
    """A model of its own that computes the reference in every step."""

    share: Share
    attention: AttentionSize

    def in_layout(self, layout: Layout) -> Beside:
        """Return what a rank holds of it in a layout."""
        return replace(self, share=replace(self.share, layout=layout))


@dataclass(frozen=True, slots=True)
class Links:
    """How many bytes a second a device sends."""

    inside: float
    """To devices of its machine."""
    across: float
    """To those of other machines, while every device of its own does so, too."""
    machine: int
    """Devices of a machine."""

    def of(self, ranks: int) -> float:
        """Return the rate among so many ranks, which follow one another."""
        return self.inside if ranks <= self.machine else self.across


@dataclass(frozen=True, slots=True)
class Exchange:
    """Bytes that one device sends in a step."""

    gathered: float
    """Shards of weights, in every pass. While they are sent, the device computes the layer before."""
    scattered: float
    """Gradients of shards, in the backward pass of every micro-batch, likewise."""
    copies: float
    """Gradients of shards, added up over the copies of hybrid sharding in the last micro-batch, likewise."""
    added_up: float
    """Gradients of whole weights, once a step, when all micro-batches are done."""
    attention: float
    """Queries, keys, values and outputs, in every layer of every pass of context parallelism; each waits for it."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.gathered + self.scattered + self.copies + self.added_up + self.attention

    def seconds(self, computing: float, layout: Layout, links: Links) -> float:
        """Return the seconds of a step that computes for so long."""
        shards = links.of(layout.shards or 1)
        beside = (self.gathered + self.scattered) / shards + self.copies / links.of(layout.devices)
        between = self.added_up / links.of(layout.devices) + self.attention / links.of(layout.context)
        return max(computing, beside) + between


def exchange_of(share: Share, work: StepWork, reference: Beside | None = None) -> Exchange:
    """Return what a rank sends in a step; ``reference`` is in the layout of the policy's ``share``."""
    layout = share.layout
    shards, copies, context = layout.shards or 1, layout.copies, layout.context
    matrices = _sharded(share)
    # Besides those reached, the layer before them: torch gathers each one while the one behind it goes backward.
    layers = max((each.layer for each in matrices if each.layer is not None), default=-1) + 1
    again = round((1 - work.reached) * layers) - 1
    gathered = scattered = of_shard = 0.0
    for each in matrices:
        # Gathered for each forward pass, and once more for the backward pass.
        backward = each.layer is None or each.layer >= again
        gathered += (1 + work.passes + backward) * _gathered(each, share)
        if each.trained:
            numbers = each.numbers // each.rows * each.rows_of(shards)
            scattered += _FLOAT32 * (shards - 1) * numbers
            of_shard += _FLOAT32 * numbers
    sharded = {each.name for each in matrices}
    whole = sum(
        weight.numbers * max(_FLOAT32, weight.bytes_each)
        for weight in share.size.trained
        if weight.name not in sharded
    )
    # Of both directions: where the tokens are, to where the heads are, and back. No layer is computed again that the
    # backward pass does not reach.
    recomputed = max(0.0, work.recomputed - (1 - work.reached))
    of_token = (1 + work.passes + recomputed + work.reached) * work.attention.bytes(context)
    if reference is not None:
        gathered += sum(_gathered(each, reference.share) for each in _sharded(reference.share))
        of_token += reference.attention.bytes(context)
    return Exchange(
        gathered=work.microbatches * gathered,
        scattered=work.microbatches * scattered,
        copies=_ring(copies) * of_shard,
        added_up=_ring(layout.devices) * whole,
        attention=work.tokens * of_token / context * (context - 1) / context,
    )


def _sharded(share: Share) -> tuple[Matrix, ...]:
    return () if share.layout.shards is None else share.matrices


def _gathered(matrix: Matrix, share: Share) -> float:
    """Return what a rank sends for a matrix to be gathered once: its own rows, to every other rank that has a part."""
    shards = share.layout.shards or 1
    return (shards - 1) * matrix.gathered(share.bf16) * matrix.rows_of(shards) / matrix.rows


def _ring(ranks: int) -> float:
    """Return how often a rank sends what all ranks add up."""
    return 2 * (ranks - 1) / ranks
