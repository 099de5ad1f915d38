"""The train/eval split by a seeded hash of the prompt, so that no prompt is on both sides; and samples of pairs."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from dpotrain.data.tokens.keys import KEY, Keys, sortable

#: Number of 64-bit hashes, which turns a hash into a share of 1.
_RANGE = 2.0**64


def held_out(prompts: Keys, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return for each pair, by the :func:`prompt_key` of its prompt, whether it is held out; both are (pairs,).

    A prompt is held out if its hash under ``seed``, as a share of 1, is below ``fraction``, whatever the other prompts.
    Only where one side would be empty, the prompt nearest to the boundary changes sides; a lone one is never held out.
    """
    different, which = np.unique(sortable(prompts), return_inverse=True)
    shares = _shares(different.view(KEY), seed)
    held = shares < fraction
    if len(different) == 1:
        held[:] = False
    elif len(different) and not held.any():
        held[np.argmin(shares)] = True
    elif len(different) and held.all():
        # Of equal shares, the last key's; above it is the first key's.
        held[len(shares) - 1 - np.argmax(shares[::-1])] = False
    return held[which]


def sampled(keys: Keys, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return at most ``count`` of the pairs with these keys, (pairs,), by a seeded hash: their indices in order.

    A pair is chosen by its own key alone, so other pairs that come or go exchange few of them.
    """
    salted = _shares(keys, seed)
    return np.sort(np.argsort(salted, kind="stable")[:count])


def _shares(keys: Keys, seed: int) -> npt.NDArray[np.float64]:
    """Return the hash of each key under ``seed``, as a share of 1."""
    salt = seed.to_bytes(16, "little", signed=True)
    hashes = (hashlib.blake2b(key.tobytes(), digest_size=8, key=salt) for key in keys)
    return np.array([int.from_bytes(each.digest(), "little") / _RANGE for each in hashes], np.float64)
