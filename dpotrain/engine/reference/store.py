"""Stored reference log-probs: one record a pair, content-addressed, appended as they are computed.

A folder belongs to one reference: its name is a hash over all that changes the numbers except the pair. A record's key
is a hash over the pair's tokens; one that is truncated or damaged fails its checksum and is computed again.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dpotrain.core.hashing import hash_text
from dpotrain.data.tokens.keys import KEY, Keys, sortable

#: Raised whenever the engine's numbers change by more than rounding.
NUMERICS_VERSION = 2

RECORD = np.dtype([("key", KEY), ("chosen", "<f4"), ("rejected", "<f4"), ("check", "<u4")])

Sums: TypeAlias = npt.NDArray[np.float32]
"""(pairs, 2) log-prob sums of chosen and rejected."""


class ReferenceStore:
    """The log-prob sums of one reference.

    Any number of processes may write to one folder: each appends to a file of its own, and all files are read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps({**identity, "numerics": NUMERICS_VERSION}, sort_keys=True, default=str)
        self.folder = folder / hash_text(self._identity, 12)
        self.path = self.folder / f"{secrets.token_hex(8)}.pairs"
        self._clear()

    def load(self) -> None:
        """Read every valid record that is in the folder now."""
        records = [_valid(path) for path in sorted(self.folder.glob("*.pairs"))]
        self._clear()
        if records:
            self._index(np.concatenate(records))

    def lookup(self, keys: Keys) -> Sums:
        """Return the (pairs, 2) sums for (pairs,) keys, as loaded; NaN where there is no record."""
        sums = np.full((len(keys), 2), np.nan, np.float32)
        if len(self._keys):
            wanted = sortable(keys)
            # Of several records for one key the last; they differ by rounding at most.
            places = np.searchsorted(self._keys, wanted, side="right") - 1
            found = self._keys[places] == wanted
            sums[found] = self._sums[places[found]]
        return sums

    def append(self, keys: Keys, sums: Sums) -> None:
        """Write records to this process's file and flush them. A later :meth:`load` finds them."""
        records = np.zeros(len(keys), RECORD)
        records["key"], records["chosen"], records["rejected"] = keys, sums[:, 0], sums[:, 1]
        records["check"] = checksums(records)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        described = self.folder / "reference.json"
        if not described.exists():
            described.write_text(self._identity + "\n", encoding="utf-8")
        with self.path.open("ab") as file:
            file.write(records.tobytes())

    def quarantine(self) -> Path:
        """Rename the folder, so that no run reads it, and return its new path; drop what was loaded."""
        self._clear()
        renamed = self.folder.with_name(f"{self.folder.name}.off-{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):  # another process has just done the same
            self.folder.rename(renamed)
        return renamed

    def _clear(self) -> None:
        self._index(np.zeros(0, RECORD))

    def _index(self, records: npt.NDArray[Any]) -> None:
        keys = sortable(records["key"])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._sums: Sums = np.stack([records["chosen"], records["rejected"]], axis=1)[order]


def checksums(records: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each record without its last four bytes: (records,)."""
    content, size = records.tobytes(), RECORD.itemsize
    sums = (zlib.crc32(content[start : start + size - 4]) for start in range(0, len(content), size))
    return np.fromiter(sums, np.uint32, len(records))


def _valid(path: Path) -> npt.NDArray[Any]:
    """Return the records that are complete, unchanged and finite; a partial one at the end is not read."""
    records: npt.NDArray[Any] = np.fromfile(path, RECORD)
    finite = np.isfinite(records["chosen"]) & np.isfinite(records["rejected"])
    valid: npt.NDArray[Any] = records[finite & (checksums(records) == records["check"])]
    return valid
