"""Keeping prompts back for evaluation by a seeded hash, so that training never sees one of them."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from dpotrain.data.tokens.keys import KEY, Keys, sortable

#: What a hash is compared with: 64 bits as a share of all.
_RANGE = 2.0**64


def held_out(prompts: Keys, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return for each pair, by the :func:`prompt_key` of its prompt, whether it is kept back for evaluation.

    ``prompts`` and the result are (pairs,). A prompt is kept back if its hash under ``seed`` falls below
    ``fraction``; which others there are does not matter, so a prompt stays on its side when rows are added,
    dropped or reordered. Only where that would leave one side without any prompt does the one nearest to the
    boundary change sides; with a single prompt there is nothing to keep back.
    """
    different, which = np.unique(sortable(prompts), return_inverse=True)
    salt = seed.to_bytes(16, "little", signed=True)
    shares = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(key.tobytes(), digest_size=8, key=salt).digest(), "little")
            / _RANGE
            for key in different.view(KEY)
        ),
        np.float64,
        len(different),
    )
    kept_back = shares < fraction
    if len(different) == 1:
        kept_back[:] = False
    elif len(different) and not kept_back.any():
        kept_back[np.argmin(shares)] = True
    elif len(different) and kept_back.all():
        # Of equal shares the one of the last key, as the first one is above.
        kept_back[len(shares) - 1 - np.argmax(shares[::-1])] = False
    return kept_back[which]
