"""Content hashes (BLAKE2b) of files and texts: names of caches and stores, and seals against damage."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_file(path: Path, size: int = 64) -> str:
    """Return the hexadecimal digest, of ``size`` bytes, of a file's content. Raises OSError."""
    with path.open("rb") as file:  # file_digest releases the interpreter for other threads
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=size)).hexdigest()


def hash_text(text: str, size: int = 16) -> str:
    """Return the hexadecimal digest, of ``size`` bytes, of a text. Lone surrogates are taken as they stand."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
