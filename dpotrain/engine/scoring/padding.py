"""Padded sequences of a micro-batch, for models that cannot take the packed row.

Where each token of them stands in the row is computed in the host's memory, which knows all lengths, and copied without
a wait: on the device, every question about a length would wait until it has computed all that came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.segments import copy_to
from dpotrain.engine.scoring.rope_scaling import LengthRule, rows_by_group


@dataclass(frozen=True, slots=True)
class Padded:
    """R sequences that share a forward pass, each prompt + completion, padded at the right to L tokens."""

    ids: torch.Tensor
    """(R, L) int64; 0 where padded."""
    mask: torch.Tensor
    """(R, L) int64: 0 where padded, else 1."""
    once: torch.Tensor
    """(R, L) int64: 1 at every token that the packed row has, the prompt with chosen; 0 of a pair that only fills a
    micro-batch."""
    places: torch.Tensor
    """(N,) int64: places in the flattened (R * L) sequences that predict the scored tokens in them."""
    scored: torch.Tensor
    """(N,) int64: which of the micro-batch's S scored tokens these are."""


def pad(batch: PackedPairs, rules: Sequence[LengthRule] = ()) -> tuple[list[Padded], torch.Tensor | None]:
    """Unpack a row into sequences, chosen before rejected for every pair; ``rules`` say which share a forward pass.

    Returned with them is the order that undoes the parting, (S,) int64: where each of the S scored tokens stands among
    those of all parts; None where there is one part.
    """
    device = batch.input_ids.device
    # A sequence is what a segment's queries see; what they see beside themselves, an earlier sequence has.
    sequences = batch.segments.items
    row = [segment.places for segment in sequences]
    places_in_row, counted = _on_host(batch)
    counts = counted.ravel()
    predicting = np.split(places_in_row, counts.cumsum()[:-1])
    firsts = counts.cumsum() - counts
    parts, order = [], []
    for group in rows_by_group([len(tokens) for tokens in row], rules):
        shape = (len(group), max(len(row[number]) for number in group))
        index, mask, once = (np.zeros(shape, np.int64) for _ in range(3))
        places, scored = [], []
        for at, number in enumerate(group):
            tokens = row[number]
            index[at, : len(tokens)] = tokens
            mask[at, : len(tokens)] = 1
            once[at, len(tokens) - sequences[number].queries : len(tokens)] = bool(batch.tokens)
            # The row's places are in ascending order in the sequence, too.
            places.append(at * shape[1] + np.searchsorted(tokens, predicting[number]))
            scored.append(firsts[number] + np.arange(counts[number]))
        order.append(np.concatenate(scored))
        places_of_tokens, *others = (
            copy_to(torch.from_numpy(each), device)
            for each in (index, mask, once, np.concatenate(places), order[-1])
        )
        parts.append(Padded(batch.input_ids[places_of_tokens] * others[0], *others))
    if len(parts) == 1:
        return parts, None
    return parts, copy_to(torch.from_numpy(np.concatenate(order).argsort()), device)


def _on_host(batch: PackedPairs) -> tuple[np.ndarray, np.ndarray]:
    """Return ``predicting`` and ``scored_tokens``, without waiting where the batch was copied from the host."""
    if (host := batch.on_host) is not None:
        return host.predicting.numpy(), host.scored_tokens.numpy()
    return batch.predicting.cpu().numpy(), batch.scored_tokens.cpu().numpy()
