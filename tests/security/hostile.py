"""Things that would leave a mark if they were run, and files that say what is not so."""

import json
import pickle
from pathlib import Path
from typing import Any


class Marker:
    """A file that appears if somebody's code is run."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "code-was-run"

    @property
    def code(self) -> str:
        """Python that leaves the mark."""
        return f"open({str(self.file)!r}, 'w').close()\n"

    @property
    def pickle(self) -> bytes:
        """What leaves the mark when it is unpickled."""
        return pickle.dumps(_Runs(self.code))

    @property
    def there(self) -> bool:
        return self.file.exists()


class _Runs:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def safetensors(path: Path, header: dict[str, Any], size: int = 0) -> Path:
    """Write a safetensors file with this header and so many bytes behind it, which take no room on the disk."""
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + size)
    return path


def promising(**tensors: tuple[str, list[int], int]) -> dict[str, Any]:
    """Return a header of tensors of (dtype, shape, bytes), one after the other."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header
