"""The part of a packed row that one of several ranks computes, where a row is divided over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.segments import copy_to


@dataclass(frozen=True, slots=True)
class RowSlice:
    """C = ceil(T / N) neighbouring tokens of a row of T, on one of N ranks, and the scored tokens that they predict.

    Slices are of one length on every rank. Beyond the row's end they have filler tokens, which nothing attends to and
    nothing scores.
    """

    input_ids: torch.Tensor
    """(C,) int64; 0 of a filler token."""
    position_ids: torch.Tensor
    """(C,) int64, those of the whole row; 0 of a filler token."""
    own: torch.Tensor
    """(C,) int64: 1 of a token of the row, 0 of a filler token."""
    scored: torch.Tensor
    """(Q,) int64: which of the row's S scored tokens are predicted here. Over all ranks each is there once."""
    predicting: torch.Tensor
    """(R,) int64: the places in the slice that predict them. R is Q, but at least 1, since kernels take no empty
    tensors: where nothing is scored here, the first token stands for it."""
    targets: torch.Tensor
    """(R,) int64: the predicted tokens."""

    @classmethod
    def of(cls, batch: PackedPairs, rank: int, ranks: int) -> RowSlice:
        """Return the slice of ``rank``, on the batch's device, without waiting for it."""
        device, tokens = batch.input_ids.device, len(batch.input_ids)
        length = slice_length(tokens, ranks)
        part = slice(rank * length, (rank + 1) * length)

        def padded(row: torch.Tensor) -> torch.Tensor:
            own = row[part]
            return F.pad(own, (0, length - len(own)))

        # Which they are is found in the host's memory, as on a device their number would have to be waited for.
        places = (batch.on_host or batch).predicting.cpu()
        scored = ((places >= part.start) & (places < part.stop)).nonzero()[:, 0]
        some = scored if len(scored) else scored.new_zeros(1)
        predicting = (places[some] - part.start).clamp(0, length - 1)
        return cls(
            input_ids=padded(batch.input_ids),
            position_ids=padded(batch.position_ids),
            own=padded(torch.ones_like(batch.input_ids)),
            scored=copy_to(scored, device),
            predicting=copy_to(predicting, device),
            targets=batch.targets.index_select(0, copy_to(some, device)),
        )


def slice_length(tokens: int, ranks: int) -> int:
    """Return how many tokens each of ``ranks`` computes of a row of ``tokens``, filler tokens included."""
    return -(-tokens // ranks)
