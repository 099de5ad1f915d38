"""A micro-batch as tensors: pairs laid end to end in one row, without padding.

For every pair the row holds prompt, chosen, rejected. Positions continue from the prompt for both completions, and
attention has two segments a pair, so that everything outside attention sees each prompt token once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dpotrain.data.batches.segments import PairLengths, Segments, copy_to
from dpotrain.data.tokens.tokenized import Flags, TokenizedPair, TokenizedPairs


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """P pairs in a row of T tokens, of which S predict a scored completion token."""

    input_ids: torch.Tensor
    """(T,) int64."""
    position_ids: torch.Tensor
    """(T,) int64, both completions continuing from their prompt."""
    predicting: torch.Tensor
    """(S,) int64: the place in the row whose hidden state predicts the token. A prompt's last token predicts
    both completions' first and stands twice."""
    targets: torch.Tensor
    """(S,) int64: the predicted token, in the order chosen 0, rejected 0, chosen 1, …"""
    scored_tokens: torch.Tensor
    """(P, 2) int64: scored tokens of chosen and rejected; their running sum splits ``targets`` into completions."""
    weights: torch.Tensor
    """(P,) float32: 1 for a pair of the step, 0 for a filler pair (see :func:`pack`)."""
    pairs: torch.Tensor
    """(P,) int64: indices into the tokenized pairs."""
    columns: Mapping[str, torch.Tensor]
    """Numbers of the pairs' rows, each (P,) float32, by name."""
    lengths: tuple[PairLengths, ...]
    segments: Segments
    """Which tokens of the row attend to which."""
    tokens: int
    """Tokens of the row that belong to pairs of the step: T, or 0 where the weights are 0."""
    on_host: PackedPairs | None = None
    """Of a micro-batch that was copied to a device, the original: reading it does not wait for the device."""

    def to(self, device: torch.device) -> PackedPairs:
        """Return the same batch on a device, copied without waiting for it."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            name: copy_to(getattr(self, name), device)
            for name in ("input_ids", "position_ids", "predicting", "targets", "scored_tokens", "weights")
        }
        columns = {name: copy_to(values, device) for name, values in self.columns.items()}
        return replace(self, columns=columns, segments=self.segments.to(device), on_host=self, **moved)


def pack(data: TokenizedPairs, pairs: Sequence[int]) -> PackedPairs:
    """Lay the pairs of a micro-batch end to end.

    An empty micro-batch becomes a filler pair, the data's shortest with weight 0: the rank takes part in every
    collective of the step and contributes nothing to the loss.
    """
    weight = 1.0 if len(pairs) else 0.0
    chosen = list(pairs) if len(pairs) else [int(np.argmin(data.lengths))]
    ids, positions, predicting, targets, counts, lengths = [], [], [], [], [], []
    offset = 0
    for index in chosen:
        pair = data[index]
        size = PairLengths(len(pair.prompt), len(pair.chosen), len(pair.rejected))
        ids += [pair.prompt, pair.chosen, pair.rejected]
        positions += [np.arange(size.prompt + size.chosen), size.prompt + np.arange(size.rejected)]
        last_prompt = offset + size.prompt - 1
        for completion, scored, start in (
            (pair.chosen, pair.chosen_scored, offset + size.prompt),
            (pair.rejected, pair.rejected_scored, offset + size.prompt + size.chosen),
        ):
            before = np.arange(start - 1, start - 1 + len(completion))
            before[0] = last_prompt
            predicting.append(before[scored])
            targets.append(completion[scored])
            counts.append(int(scored.sum()))
        lengths.append(size)
        offset += size.total
    return PackedPairs(
        input_ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        position_ids=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        predicting=torch.from_numpy(np.concatenate(predicting).astype(np.int64)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        scored_tokens=torch.tensor(counts, dtype=torch.int64).view(-1, 2),
        weights=torch.full((len(chosen),), weight, dtype=torch.float32),
        pairs=torch.tensor(chosen, dtype=torch.int64),
        columns={
            name: torch.from_numpy(data.numbers[chosen, place].astype(np.float32))
            for place, name in enumerate(data.columns)
        },
        lengths=tuple(lengths),
        segments=Segments.of(lengths),
        tokens=offset if len(pairs) else 0,
    )


def shorten(pair: TokenizedPair, tokens: int) -> TokenizedPair:
    """Return a pair of about ``tokens`` tokens: of each part of a longer one the beginning, in its proportions.

    For looking at a model, not for training: where no token of an answer's beginning is scored, all of them are.
    """
    if pair.length <= tokens:
        return pair

    def beginning(length: int) -> slice:
        return slice(max(1, length * tokens // pair.length))

    def scored(flags: Flags) -> Flags:
        kept = flags[beginning(len(flags))]
        return kept if kept.any() else np.ones_like(kept)

    return replace(
        pair,
        prompt=pair.prompt[beginning(len(pair.prompt))],
        chosen=pair.chosen[beginning(len(pair.chosen))],
        rejected=pair.rejected[beginning(len(pair.rejected))],
        chosen_scored=scored(pair.chosen_scored),
        rejected_scored=scored(pair.rejected_scored),
    )
