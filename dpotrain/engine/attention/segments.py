"""Which query tokens of a packed row attend to which key tokens.

A pair lies in the row as prompt, chosen, rejected, and has two segments: [prompt + chosen] over itself, and [rejected]
over [prompt + rejected]. Both are causal, and the last query sees every key of its segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dpotrain.data.batches.packing import PairLengths


@dataclass(frozen=True, slots=True)
class Segment:
    """Queries ``[query_start, query_end)`` over the keys of one or two stretches of the row."""

    query_start: int
    query_end: int
    stretches: tuple[tuple[int, int], ...]
    """Half-open stretches of key tokens, in order; the last ends where the queries end."""

    @property
    def queries(self) -> int:
        """Number of query tokens."""
        return self.query_end - self.query_start

    @property
    def keys(self) -> int:
        """Number of key tokens."""
        return sum(end - start for start, end in self.stretches)


@dataclass
class Segments:
    """The segments of a packed row, handed through the model to the attention function as a forward argument.

    It counts the attention calls it passes through, which detects a model that ignores it.
    """

    items: tuple[Segment, ...]
    calls: int = 0
    windowed_calls: int = 0
    """Calls in which the model asked for a sliding window."""
    _by_device: dict[torch.device, VarlenIndex] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[PairLengths]) -> Segments:
        """Return the segments of the row of these pairs."""
        items = []
        start = 0
        for pair in lengths:
            answer = start + pair.prompt
            second = answer + pair.chosen
            end = second + pair.rejected
            items.append(Segment(start, second, ((start, second),)))
            items.append(Segment(second, end, ((start, answer), (second, end))))
            start = end
        return cls(tuple(items))

    def varlen(self, device: torch.device) -> VarlenIndex:
        """Return what a variable-length kernel needs, built once per micro-batch and device."""
        if device not in self._by_device:
            self._by_device[device] = VarlenIndex.of(self.items, device)
        return self._by_device[device]


@dataclass(frozen=True)
class VarlenIndex:
    """Segments as cumulative lengths, for a variable-length attention kernel.

    Queries are in row order already; keys are gathered, because a prompt's keys serve both completions.
    """

    keys: torch.Tensor
    """(K,) int64 row place of every key."""
    query_ends: torch.Tensor
    """(segments + 1,) int32 cumulative query counts."""
    key_ends: torch.Tensor
    """(segments + 1,) int32 cumulative key counts."""
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, items: Sequence[Segment], device: torch.device) -> VarlenIndex:
        """Lay out the segments and copy the index to the device."""
        keys = torch.cat([torch.arange(*stretch) for item in items for stretch in item.stretches])
        return cls(
            keys=keys.to(device, non_blocking=True),
            query_ends=_cumulative([item.queries for item in items]).to(device, non_blocking=True),
            key_ends=_cumulative([item.keys for item in items]).to(device, non_blocking=True),
            longest_query=max(item.queries for item in items),
            longest_key=max(item.keys for item in items),
        )


def _cumulative(counts: Sequence[int]) -> torch.Tensor:
    return torch.nn.functional.pad(torch.tensor(counts).cumsum(0), (1, 0)).to(torch.int32)
