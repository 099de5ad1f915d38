"""Segment attention of a row whose tokens are divided over ranks: there every rank has all tokens, for some heads.

That is the exchange of DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv:2309.14509, section 3.1). Of N ranks each has C
tokens of the row with all heads. One all-to-all turns that into the row's T tokens with an N-th of the heads, attention
over the row's segments follows unchanged, and another turns its output back. Each rank sends and receives an N-th of
what it has to each other one, whatever the length of the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dpotrain.core.errors import RunError
from dpotrain.data.batches.row_slices import slice_length
from dpotrain.engine.parallel.context import ContextGroup


@dataclass(frozen=True, slots=True)
class HeadExchange:
    """The exchange for one row, handed through the model to the attention function as a forward argument."""

    context: ContextGroup
    tokens: int
    """T: of the whole row."""

    def to_heads(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Turn (C, heads, size) of this rank's tokens into (T, heads / N, size) of all tokens.

        ``key`` and ``value`` have groups in the place of heads, which are repeated as far as N needs it.

        Raises:
            RunError: N does not divide the heads.
        """
        ranks, groups = self.context.size, key.shape[1]
        check_heads(query.shape[1], ranks)
        if (times := repeats(groups, ranks)) > 1:
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        laid = (query, key, value)
        received = self.context.swap(by_heads(laid, ranks))
        query, key, value = of_all_tokens(received, [each.shape[1:] for each in laid], self.tokens)
        return query, key, value

    def to_tokens(self, output: torch.Tensor) -> torch.Tensor:
        """Turn (T, heads / N, size) of all tokens into (C, heads, size) of this rank's; of filler tokens it is 0."""
        return with_all_heads(self.context.swap(by_tokens(output, self.context.size)), output.shape[2])


def check_heads(heads: int, ranks: int) -> None:
    """Raise a RunError where ``ranks`` does not divide a model's attention heads."""
    if heads % ranks:
        *others, last = [str(number) for number in range(2, heads + 1) if not heads % number] or ["1"]
        raise RunError(
            f"parallel.context = {ranks}: the model has {heads} attention heads, which {ranks} processes cannot share "
            f"equally.\nSet parallel.context to {', '.join(others) + ' or ' if others else ''}{last}."
        )


def repeats(groups: int, ranks: int) -> int:
    """Return how often key-value heads are repeated for each rank to have those that its query heads use."""
    return math.lcm(groups, ranks) // groups


def by_heads(tensors: Sequence[torch.Tensor], ranks: int) -> torch.Tensor:
    """Lay (C, heads, size) tensors out as (ranks, C, numbers): side by side what each rank gets of a token."""
    parts = [each.view(len(each), ranks, -1, each.shape[2]) for each in tensors]
    return torch.cat([part.transpose(0, 1).flatten(2) for part in parts], 2)


def of_all_tokens(received: torch.Tensor, shapes: Sequence[Sequence[int]], tokens: int) -> list[torch.Tensor]:
    """Return from (ranks, C, numbers), what each rank has sent, the (T, heads / ranks, size) tensors in it.

    ``shapes`` are (heads, size) of what :func:`by_heads` was given; filler tokens, after the first T, are left out.
    """
    own = [(heads // len(received), size) for heads, size in shapes]
    columns = torch.split(received.flatten(0, 1)[:tokens], [heads * size for heads, size in own], 1)
    return [column.view(tokens, *shape) for column, shape in zip(columns, own, strict=True)]


def by_tokens(output: torch.Tensor, ranks: int) -> torch.Tensor:
    """Lay (T, heads, size) out as (ranks, C, heads * size): what each rank gets, with zeros for filler tokens."""
    length = slice_length(len(output), ranks)
    rows = F.pad(output.flatten(1), (0, 0, 0, ranks * length - len(output)))
    return rows.view(ranks, length, -1)


def with_all_heads(received: torch.Tensor, size: int) -> torch.Tensor:
    """Return from (ranks, C, heads / ranks * size), what each rank has sent, (C, heads, size)."""
    return received.transpose(0, 1).reshape(received.shape[1], -1, size)
