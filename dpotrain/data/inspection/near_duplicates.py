"""Texts that are nearly the same: candidates by equal bands of their sketches, which are then compared exactly.

Bands are sorted one at a time, so that a million texts take some tens of megabytes. In a group of texts with an equal
band each is compared with the first of the group and with the one before it, not with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dpotrain.data.inspection.shingles import BANDS, NEAR, Shingles, similarity

Indices = npt.NDArray[np.int64]
#: Two places in one number, so that millions of candidates are sorted fast.
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)

#: Candidates that are compared exactly; that takes about half a millisecond each.
MOST_COMPARED = 100_000
_TEXTS_KEPT = 1000  # that were compared last: the first of a group is compared with all others


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Texts that are at least :data:`NEAR` like an earlier one."""

    later: Indices
    """(found,) in order."""
    earlier: Indices
    """(found,) the earlier text of each."""
    complete: bool
    """Whether all candidates were compared."""


def candidates(
    band: Callable[[int], npt.NDArray[np.uint32]], contents: npt.NDArray[np.uint64]
) -> tuple[Indices, Indices]:
    """Return pairs of different texts that may be nearly the same: (found,) later texts and their earlier ones.

    ``band`` returns the (texts,) hashes of the band of a number below :data:`BANDS`; ``contents`` are the (texts,)
    hashes of whole texts. Of texts with equal contents only the first is looked at. The candidates of a text are next
    to each other.
    """
    first = np.sort(np.unique(contents, return_index=True)[1])
    keys = np.zeros(0, np.uint64)  # of a later and an earlier place
    for number in range(BANDS):
        values = band(number)[first]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if not len(same):
            continue
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        heads = starts[np.searchsorted(starts, same, "right") - 1]
        later = order[same + 1].astype(np.uint64) << _HALF
        keys = np.unique(
            np.concatenate([keys, *(later | order[at].astype(np.uint64) for at in (heads, same))])
        )
    return first[(keys >> _HALF).astype(np.int64)], first[(keys & _LOW).astype(np.int64)]


def near_duplicates(
    band: Callable[[int], npt.NDArray[np.uint32]],
    contents: npt.NDArray[np.uint64],
    parts_of: Callable[[int], Sequence[Shingles]],
    counts: Callable[[Indices, Indices], npt.NDArray[np.bool_]] | None = None,
) -> NearDuplicates:
    """Return the texts of which every part is nearly the same as that of an earlier text, and that are not the same.

    ``band`` and ``contents`` are those of :func:`candidates`; bands are of the parts together. ``parts_of`` reads the
    parts of a text by its place. ``counts``, if given, returns which (candidates,) later and earlier texts are to be
    compared at all.
    """
    later, earlier = candidates(band, contents)
    if counts is not None:
        wanted = counts(later, earlier)
        later, earlier = later[wanted], earlier[wanted]
    read = lru_cache(_TEXTS_KEPT)(parts_of)
    found: dict[int, int] = {}
    for one, other in zip(later[:MOST_COMPARED].tolist(), earlier[:MOST_COMPARED].tolist(), strict=True):
        if one not in found and all(map(_nearly_same, read(one), read(other))):
            found[one] = other
    return NearDuplicates(
        np.array([*found], np.int64), np.array([*found.values()], np.int64), len(later) <= MOST_COMPARED
    )


def _nearly_same(one: Shingles, other: Shingles) -> bool:
    return similarity(one, other) >= NEAR
