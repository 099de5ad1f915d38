"""Checkpoints: written aside, hashed, renamed into place; loaded only if whole.

``checkpoints/step-00000200/`` holds ``trained.safetensors`` (the trained weights), ``optimizer.safetensors`` and
``components.safetensors`` (their tensors), ``reference.safetensors`` (the weights of a reference that moves),
``state.json`` (everything else) and ``manifest.json`` (size and hash of each). A folder under that name is complete: it
is renamed to it after everything in it has reached the disk.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

from dpotrain.core.atomic import folder_aside
from dpotrain.core.errors import RunError
from dpotrain.core.hashing import hash_file
from dpotrain.core.write_errors import system_error, writing
from dpotrain.run.checkpoint.snapshot import FORMAT, Checkpoint, Snapshot, put_together
from dpotrain.run.checkpoint.tensor_files import NotWholeError, described

#: Bytes of the files' hashes in ``manifest.json``.
_DIGEST = 32
NAME = re.compile(r"step-(\d{8})")
#: Files of tensors, without their ending, that every checkpoint of this format has.
TENSORS = ("trained", "optimizer", "components")
#: Files that a checkpoint of any format has.
ALWAYS = ("trained.safetensors", "optimizer.safetensors", "state.json")


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Undo :func:`path_of`, for a folder that carries a checkpoint's name."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def save(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint and return its folder.

    Raises:
        RunError: it could not be written; nothing half-written is left under its name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = path_of(folder, snapshot.step)
    try:
        with folder_aside(path) as aside:
            for name, tensors in snapshot.tensors.items():
                save_file(dict(tensors), aside / f"{name}.safetensors")
            (aside / "state.json").write_text(snapshot.state, encoding="utf-8")
            manifest = {file.name: _described(file) for file in sorted(aside.iterdir())}
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write the checkpoint {path}: {system_error(error) or error}.\n"
            "Free disk space or fix the permissions; --resume then continues from the checkpoint before it."
        ) from error
    return path


def newest(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest sound checkpoint, and what is wrong with each newer one."""
    damaged: dict[Path, str] = {}
    for path in sorted(complete(folder), reverse=True):
        fault = verify(path)
        if fault is None:
            return path, damaged
        damaged[path] = fault
    return None, damaged


def complete(folder: Path) -> list[Path]:
    """Return the folders that carry a checkpoint's name, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir())


def verify(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file is as the manifest says."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        there = (file.name for file in sorted(path.iterdir()) if file.name != "manifest.json")
        for name in dict.fromkeys([*ALWAYS, *manifest, *there]):
            expected = manifest[name]
            file = path / name
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if hash_file(file, _DIGEST) != expected["blake2b"]:
                return f"{name} has changed since it was written"
            if name.endswith(".safetensors"):
                described(file)
    except NotWholeError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read: {error}"
    return None


def quarantine(path: Path) -> None:
    """Take a damaged checkpoint's name from it, so that nothing mistakes it for a whole one; it is not deleted."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(aside):
        path.replace(aside)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that :func:`verify` found sound.

    Raises:
        RunError: it is of another format.
    """
    from safetensors.torch import load_file

    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state.pop("format") != FORMAT:
        raise RunError(
            f"checkpoint {path} was written by another version of dpotrain and cannot be read by this one"
        )
    names = [*TENSORS, *(["reference"] if (path / "reference.safetensors").exists() else [])]
    return put_together(state, {name: load_file(path / f"{name}.safetensors") for name in names})


def prune(folder: Path, keep: int, but: Container[int | None]) -> None:
    """Delete the oldest complete checkpoints beyond the newest ``keep``, sparing the steps in ``but``."""
    for path in complete(folder)[:-keep]:
        if step_of(path) not in but:
            # Renamed first: a kill in the middle must not leave half a checkpoint under a complete one's name.
            doomed = path.with_name(f".{path.name}.old")
            with writing(doomed):
                path.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake2b": hash_file(file, _DIGEST)}
