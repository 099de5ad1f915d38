"""Reading what wandb wrote offline, from its own record files."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records_of(file: Path) -> Iterator[Any]:
    """Yield the records of a ``.wandb`` file: a header of 7 bytes, then a LevelDB log of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def of_kind(file: Path, kind: str) -> list[Any]:
    """Return a closed run's records of a kind; wandb's own process may still be writing them for a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        records = [(record.WhichOneof("record_type"), record) for record in records_of(file)]
        if any(found == "exit" for found, _ in records):
            return [record for found, record in records if found == kind]
        time.sleep(0.01)
    raise AssertionError(f"{file} was never closed")


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def offline_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def record_file(folder: Path) -> Path:
    (file,) = folder.glob("run-*.wandb")
    return file


def history(file: Path) -> list[dict[str, Any]]:
    rows = [values(record.history.item) for record in of_kind(file, "history")]
    return [{name: value for name, value in row.items() if name[0] != "_" or name == "_step"} for row in rows]
