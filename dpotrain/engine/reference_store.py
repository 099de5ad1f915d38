"""Stored reference log-probs: one record a pair, content-addressed, appended as they are computed.

A file belongs to one reference: its name is a hash over everything that changes the numbers except the pair
(weights, quantization, compute precision, this code's numerics). A record's key is a hash over the pair's
tokens. A record that was cut short by a kill, or damaged since, fails its checksum and is computed again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: Raised whenever the engine's numbers change by more than rounding.
NUMERICS_VERSION = 1

RECORD = np.dtype([("key", "V16"), ("chosen", "<f4"), ("rejected", "<f4"), ("check", "<u4")])


class ReferenceStore:
    """The log-prob sums of one reference.

    Several processes may fill one folder: each appends to a file of its own, and all files are read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rank: int = 0) -> None:
        described = json.dumps({**identity, "numerics": NUMERICS_VERSION}, sort_keys=True, default=str)
        self.folder = folder / hashlib.blake2b(described.encode(), digest_size=12).hexdigest()
        self.path = self.folder / f"rank-{rank:05d}.pairs"
        self._identity = described
        self._known: dict[bytes, tuple[float, float]] = {}

    def load(self) -> None:
        """Read every sound record there is."""
        for path in sorted(self.folder.glob("rank-*.pairs")):
            records = _sound(path)
            keys = [bytes(key) for key in records["key"]]
            values = zip(records["chosen"].tolist(), records["rejected"].tolist(), strict=True)
            self._known.update(zip(keys, values, strict=True))

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def missing(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return the places in ``keys`` that have no record, each key once."""
        seen: set[bytes] = set(self._known)
        places = []
        for place, key in enumerate(keys):
            if key not in seen:
                seen.add(key)
                places.append(place)
        return np.array(places, np.int64)

    def append(self, keys: Sequence[bytes], sums: npt.NDArray[np.float32]) -> None:
        """Store ``sums`` (pairs, 2) of chosen and rejected, and flush them to the file."""
        records = np.zeros(len(keys), RECORD)
        for number, key in enumerate(keys):
            records[number]["key"] = np.void(key)
        records["chosen"], records["rejected"] = sums[:, 0], sums[:, 1]
        records["check"] = [_checksum(record) for record in records]
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / "reference.json"
        if not described.exists():
            described.write_text(self._identity + "\n", encoding="utf-8")
        self._drop_torn_tail()
        with self.path.open("ab") as file:
            file.write(records.tobytes())
        self._known.update(
            (key, (float(chosen), float(rejected)))
            for key, (chosen, rejected) in zip(keys, sums, strict=True)
        )

    def lookup(self, keys: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Return (pairs, 2) sums; every key must have a record."""
        return np.array([self._known[key] for key in keys], np.float32).reshape(-1, 2)

    def _drop_torn_tail(self) -> None:
        """Cut a record that a kill left half written, which would shift all that follow it."""
        if self.path.exists() and (torn := self.path.stat().st_size % RECORD.itemsize):
            with self.path.open("r+b") as file:
                file.truncate(self.path.stat().st_size - torn)


def _checksum(record: Any) -> int:
    return zlib.crc32(record.tobytes()[: RECORD.itemsize - 4])


def _sound(path: Path) -> npt.NDArray[Any]:
    data = path.read_bytes()
    records = np.frombuffer(data, RECORD, count=len(data) // RECORD.itemsize)
    sound = [record["check"] == _checksum(record) for record in records]
    kept: npt.NDArray[Any] = records[np.array(sound, bool)]
    return kept
