"""Which query tokens of a packed row attend to which key tokens.

A pair lies in the row as prompt, chosen, rejected, and has two segments: [prompt + chosen] over itself, and [rejected]
over [prompt + rejected]. Both are causal, and the last query sees every key of its segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class PairLengths:
    """Token counts of one packed pair."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def total(self) -> int:
        """Tokens of the pair in the row."""
        return self.prompt + self.chosen + self.rejected


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

    @property
    def places(self) -> np.ndarray:
        """(keys,) int64 row place of every key."""
        return np.concatenate([np.arange(*stretch) for stretch in self.stretches])


@dataclass(frozen=True)
class Segments:
    """The segments of a packed row, handed through the model to the attention function as a forward argument.

    For a compiled layer, which must not depend on the pairs, they are tensors and integers too. Variable-length
    attention kernels take cumulative lengths. Queries are in row order already; keys are gathered, because a prompt's
    keys serve both completions.
    """

    items: tuple[Segment, ...]
    """The segments one by one, in row order."""
    lengths: torch.Tensor
    """(3P,) int64, always on the host: prompt, chosen, rejected of each pair."""
    keys: torch.Tensor
    """(K,) int64 row place of every key."""
    query_ends: torch.Tensor
    """(2P + 1,) int32 cumulative query counts of the segments."""
    key_ends: torch.Tensor
    """(2P + 1,) int32 cumulative key counts."""
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, lengths: Sequence[PairLengths]) -> Segments:
        """Return the segments of the row of these pairs, on the host."""
        counts = np.array([(pair.prompt, pair.chosen, pair.rejected) for pair in lengths], dtype=np.int64)
        prompt, chosen, rejected = counts.T
        queries = np.stack([prompt + chosen, rejected], 1).ravel()
        keys = np.stack([prompt + chosen, prompt + rejected], 1).ravel()
        items = _items(counts.tolist())
        return cls(
            items=items,
            lengths=torch.from_numpy(counts.ravel()),
            keys=torch.from_numpy(np.concatenate([item.places for item in items])),
            query_ends=_cumulative(queries),
            key_ends=_cumulative(keys),
            longest_query=int(queries.max()),
            longest_key=int(keys.max()),
        )

    def to(self, device: torch.device) -> Segments:
        """Return the same segments with the kernels' tensors on a device; on CUDA the copies are asynchronous."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            name: copy_to(getattr(self, name), device) for name in ("keys", "query_ends", "key_ends")
        }
        return replace(self, **moved)


def copy_to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the host's memory to a device without waiting for it: on CUDA only from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _items(counts: Sequence[Sequence[int]]) -> tuple[Segment, ...]:
    items = []
    start = 0
    for prompt, chosen, rejected in counts:
        answer = start + prompt
        second = answer + chosen
        end = second + rejected
        items.append(Segment(start, second, ((start, second),)))
        items.append(Segment(second, end, ((start, answer), (second, end))))
        start = end
    return tuple(items)


def _cumulative(counts: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int32))
