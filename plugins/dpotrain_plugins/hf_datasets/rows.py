"""Rows of an Arrow data set as plain Python values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import DataError, hash_file

if TYPE_CHECKING:
    import datasets


class ArrowRows:
    """A ``datasets.Dataset``, which stays on disk."""

    def __init__(self, data: datasets.Dataset) -> None:
        # A data set may have been saved with an output format of tensors.
        self._data = data.with_format(None)
        self.columns: list[str] = list(data.column_names)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the Arrow files' content."""
        files = [Path(file["filename"]) for file in self._data.cache_files]
        return content_digest(files) if files else str(self._data._fingerprint)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        try:
            row: dict[str, Any] = self._data[int(index)]
        except Exception as error:  # text that is not UTF-8, a damaged picture, …
            raise DataError(f"row {index} cannot be read: {type(error).__name__}: {error}") from error
        features = self._data.features
        return {name: _without_absent(value, features[name]) for name, value in row.items()}


def _without_absent(value: Any, feature: Any) -> Any:
    """Drop the keys of structs whose value is None: Arrow gives each struct the keys of all structs of its column.

    What a column of type JSON holds stays as it was written, and so does a column of which a row has no value.
    """
    if isinstance(feature, dict) and isinstance(value, dict):
        return {key: _without_absent(one, feature.get(key)) for key, one in value.items() if one is not None}
    inner = getattr(feature, "feature", None)
    return [_without_absent(one, inner) for one in value] if inner and isinstance(value, list) else value


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep the bars of the datasets library off the terminal, where they would run through the live view."""
    import datasets

    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def content_digest(files: Iterable[Path]) -> str:
    """Return 32 hex digits over the files' bytes, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        digest.update(bytes.fromhex(hash_file(path)))
    return digest.hexdigest()
