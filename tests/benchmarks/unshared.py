"""Packed rows without prefix sharing: every prompt lies in the row twice, once before each answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.tokens.tokenized import Flags, TokenizedPair, TokenizedPairs
from dpotrain.engine.training import trainer as trainer_module


def unshared(pair: TokenizedPair) -> TokenizedPair:
    """Return the pair with an empty prompt: each answer begins with the prompt, of which no token is scored."""

    def scored(flags: Flags) -> Flags:
        return np.concatenate([np.zeros(len(pair.prompt), np.bool_), flags])

    return replace(
        pair,
        prompt=pair.prompt[:0],
        chosen=np.concatenate([pair.prompt, pair.chosen]),
        rejected=np.concatenate([pair.prompt, pair.rejected]),
        chosen_scored=scored(pair.chosen_scored),
        rejected_scored=scored(pair.rejected_scored),
    )


@contextmanager
def prompts_twice() -> Iterator[None]:
    """Inside this context the steps of trainers, and references that they ask, compute such rows."""
    pack = trainer_module.pack

    def pack_twice(data: TokenizedPairs, pairs: Sequence[int], *args: Any, **kwargs: Any) -> PackedPairs:
        laid_out = TokenizedPairs.of([unshared(data[int(pair)]) for pair in pairs], data.columns)
        batch = pack(laid_out, range(len(pairs)), *args, **kwargs)
        return replace(batch, pairs=torch.tensor([int(pair) for pair in pairs]))

    with mock.patch.object(trainer_module, "pack", pack_twice):
        yield
