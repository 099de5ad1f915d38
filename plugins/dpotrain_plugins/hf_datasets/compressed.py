"""Compressed files are decompressed into a temporary file, which takes disk space and no memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO

from dpotrain.plugin.api import DataError

#: How compressed files end, and what pyarrow calls their format.
FORMATS = {".gz": "gzip", ".zst": "zstd"}
#: How the content of a compressed file begins; no text in UTF-8 does.
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def plain_name(path: Path) -> str:
    """Return a file's name in lower case, without the ending of a compressed file."""
    name = path.name.lower()
    for ending in FORMATS:
        name = name.removesuffix(ending)
    return name


def open_plain(path: Path) -> BinaryIO:
    """Open a file at its first byte, decompressed.

    Raises:
        DataError: it is compressed and not whole or not so named, or there is no room to decompress it.
        OSError: it cannot be read.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        file = path.open("rb")
        head = file.read(4)
        file.seek(0)
        for magic, ending in _MAGIC.items():
            if head.startswith(magic):
                file.close()
                raise DataError(
                    f"{path} is compressed ({FORMATS[ending]}), and its name does not end in {ending}.\n"
                    f"Rename it to {path.name}{ending}."
                )
        return file
    import pyarrow

    # Its space is freed as soon as nothing maps it, also where the process is killed.
    plain = tempfile.TemporaryFile(prefix="dpotrain-")  # noqa: SIM115  # the caller closes it
    with pyarrow.OSFile(str(path)) as file, pyarrow.CompressedInputStream(file, form) as stream:
        while True:
            try:
                part = stream.read(1 << 20)
            except OSError as error:
                raise DataError(
                    f"{path} is not a complete {form} file: {error}.\nCompress or copy it again."
                ) from error
            if not part:
                break
            try:
                plain.write(part)
            except OSError as error:
                raise DataError(
                    f"{path} cannot be decompressed into {tempfile.gettempdir()}: {error.strerror}.\n"
                    "Free disk space there, set TMPDIR to a folder on another disk, or decompress it yourself."
                ) from error
    plain.seek(0)
    return plain
