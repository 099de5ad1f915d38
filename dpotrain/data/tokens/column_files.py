"""Columns of pairs in ``.npy`` files: appended to while rows are tokenized, memory-mapped afterwards."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpotrain.core.write_errors import writing
from dpotrain.data.tokens.keys import KEY, Keys
from dpotrain.data.tokens.tokenized import TokenizedPairs, TokenStore

#: The columns of pairs by name, each in a file of that name.
COLUMNS: dict[str, np.dtype[Any]] = {
    "tokens": np.dtype("<i4"),
    "scored": np.dtype("?"),
    **dict.fromkeys(
        ("prompt_lengths", "chosen_lengths", "rejected_lengths", "rows", "starts"), np.dtype("<i8")
    ),
    "keys": KEY,
}
#: Those with an entry a token.
_STORED = ("tokens", "scored")
PROMPTS = "prompts"
_NUMBERS = "numbers"
_UNCUT = "uncut"


class PairFiles:
    """Appends pairs to the columns in an empty folder. Use as a context manager, which closes the files."""

    def __init__(self, folder: Path, columns: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._files = ExitStack()
        self._tokens = 0
        self.largest_token = -1
        self._uncut_path = _path(folder, _UNCUT)
        with writing(self._folder):
            self._columns = {
                name: self._files.enter_context(Column(_path(folder, name), dtype, ()))
                for name, dtype in {**COLUMNS, PROMPTS: KEY}.items()
            }
            self._uncut = self._files.enter_context(Column(self._uncut_path, np.dtype("<i8"), (3,)))
            if columns:  # an empty file cannot be mapped
                numbers = Column(_path(folder, _NUMBERS), np.dtype("<f8"), (len(columns),))
                self._columns[_NUMBERS] = self._files.enter_context(numbers)

    def __enter__(self) -> PairFiles:
        return self

    def __exit__(self, *exc: object) -> None:
        with writing(self._folder):
            self._files.close()

    def append(self, pairs: TokenizedPairs, prompts: Keys, uncut: npt.NDArray[np.int64]) -> None:
        """Add pairs with the (pairs,) keys of their prompts.

        ``uncut`` is (tokenized, 3): tokens of prompt, chosen and rejected of all that were tokenized, before
        anything was cut or dropped. All tokens of the pairs' one store are theirs.
        """
        (store,) = pairs.stores
        with writing(self._folder):
            for name, file in self._columns.items():
                if name == "starts":
                    file.append(pairs.starts + self._tokens)
                elif name in _STORED:
                    file.append(getattr(store, name))
                else:
                    file.append(prompts if name == PROMPTS else getattr(pairs, name))
            self._uncut.append(uncut)
        self._tokens += len(store.tokens)
        self.largest_token = max(self.largest_token, pairs.largest_token)

    def finish(self) -> npt.NDArray[np.int64]:
        """Close the files and return the (tokenized, 3) uncut lengths, whose file is removed."""
        with writing(self._folder):
            self._files.close()
            uncut = np.array(map_column(self._uncut_path), np.int64)
            self._uncut_path.unlink()
        return uncut


def open_pairs(folder: Path, largest_token: int, columns: tuple[str, ...] = ()) -> TokenizedPairs:
    """Map the columns that :class:`PairFiles` wrote."""
    mapped = {name: map_column(_path(folder, name)) for name in COLUMNS}
    store = TokenStore(*(mapped.pop(name) for name in _STORED))
    pairs = len(mapped["rows"])
    return TokenizedPairs(
        stores=(store,),
        **mapped,
        largest_token=largest_token,
        numbers=map_column(_path(folder, _NUMBERS)) if columns else np.zeros((pairs, 0)),
        sources=np.zeros(pairs, np.int16),
        columns=columns,
    )


def open_prompts(folder: Path) -> Keys:
    """Map the (pairs,) keys of the pairs' prompts."""
    return map_column(_path(folder, PROMPTS))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def map_column(path: Path) -> npt.NDArray[Any]:
    """Map a file that :class:`Column` wrote."""
    # A plain array over the mapped memory: indexing a numpy.memmap itself is several times as slow.
    mapped: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    return mapped


class Column:
    """One file that grows; its header, which states the length, is written last."""

    def __init__(self, path: Path, dtype: np.dtype[Any], inner: tuple[int, ...]) -> None:
        self._dtype, self._inner, self._length = dtype, inner, 0
        self._file = path.open("xb", buffering=1 << 18)
        self._write_header()
        self._begins = self._file.tell()

    def __enter__(self) -> Column:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            # numpy leaves room in a header for the length to grow.
            assert self._file.tell() == self._begins

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add (values, …) to the end."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._length += len(values)

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length, *self._inner),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
