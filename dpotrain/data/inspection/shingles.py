"""Texts as sets of word shingles, their Jaccard similarity, and MinHash sketches that estimate it.

A shingle is three words in a row, lower-cased; in scripts without spaces a character counts as a word. A sketch is the
minimum of each of 60 hash functions over a text's shingles; that of two texts together is the smaller of their minima.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = list[str]
Shingles: TypeAlias = npt.NDArray[np.uint32]
Sketch: TypeAlias = npt.NDArray[np.uint32]

#: Jaccard similarity of two texts' shingles from which they count as nearly the same.
NEAR = 0.8

#: A sketch is compared in bands: texts of which one band is equal are candidates. With 12 bands of 5, 99 % of the texts
#: that are exactly :data:`NEAR` alike have an equal band, and 7 % of those that are 0.35 alike.
BANDS = 12
_BAND_ROWS = 5

#: Thai to Khmer, and Chinese, Japanese and Korean; Korean has spaces, but few.
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_SCRIPT_WITHOUT_SPACES = re.compile(f"[{_NO_SPACES}]")
_WORD = re.compile(f"[{_NO_SPACES}]|[^\\s{_NO_SPACES}]+")

_draw = np.random.default_rng(0)
_FACTORS = _draw.integers(0, 2**32, (BANDS * _BAND_ROWS, 1), np.uint32) | np.uint32(1)
_OFFSETS = _draw.integers(0, 2**32, (BANDS * _BAND_ROWS, 1), np.uint32)
_BAND_FACTORS = _draw.integers(0, 2**32, _BAND_ROWS, np.uint32) | np.uint32(1)

_MOST_WORDS_KEPT = 1 << 18  # in the table of words to hashes


class _Hashes(dict[str, int]):
    """The CRC-32 of each word seen; Python's own hash differs between processes."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MOST_WORDS_KEPT:
            self.clear()
        found = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return found


_HASHES = _Hashes()


def words(text: str) -> Words:
    """Return the lower-cased words of a text, with the punctuation that they touch."""
    lowered = text.lower()
    if lowered.isascii() or not _SCRIPT_WITHOUT_SPACES.search(lowered):
        return lowered.split()
    return _WORD.findall(lowered)


def phrase(of: Words) -> str:
    """Return words as they stand in a text: those of scripts without spaces next to each other."""
    return ("" if all(map(_SCRIPT_WITHOUT_SPACES.match, of[:1])) else " ").join(of)


def shingles(of: Words) -> Shingles:
    """Return the hashes of a text's shingles, with repetitions; one for all words where there are fewer than three."""
    if len(of) < 3:
        of = [*of, "", "", ""][:3]
    hashed = np.fromiter(map(_HASHES.__getitem__, of), np.uint32, len(of))
    mixed = hashed[:-2] * np.uint32(0x9E3779B1)
    mixed ^= (hashed[1:-1] * np.uint32(0x85EBCA77) + hashed[2:]) * np.uint32(0xC2B2AE3D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(12)
    return mixed


def sketch(of: Shingles) -> Sketch:
    """Return the (60,) MinHash sketch of shingles."""
    found: Sketch = (_FACTORS * of + _OFFSETS).min(axis=1)
    return found


def union(sketches: Iterable[Sketch]) -> Sketch:
    """Return the sketch of several texts' shingles together."""
    found: Sketch = np.minimum.reduce(list(sketches))
    return found


def bands(of: Sketch) -> npt.NDArray[np.uint32]:
    """Return the (12,) hashes of a sketch's bands."""
    found: npt.NDArray[np.uint32] = (of.reshape(BANDS, _BAND_ROWS) * _BAND_FACTORS).sum(
        axis=1, dtype=np.uint32
    )
    return found


def similarity(one: Shingles, other: Shingles) -> float:
    """Return the Jaccard similarity of two sets of shingles: the share of all that both have."""
    both, either = len(np.intersect1d(one, other)), len(np.union1d(one, other))
    return both / either
