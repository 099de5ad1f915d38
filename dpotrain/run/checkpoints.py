"""Checkpoints: written aside, hashed, renamed into place; loaded only if whole.

``checkpoints/step-00000200/`` holds ``trained.safetensors`` (the trained weights),
``optimizer.safetensors`` (its tensors), ``state.json`` (everything else) and ``manifest.json`` (size and
hash of each of them). A folder under that name is a complete checkpoint: it got its name by a rename after
everything in it had reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.errors import RunError
from dpotrain.run.atomic import folder_aside

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"step-(\d{8})")
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is needed to go on as if nothing had happened."""

    step: int
    trained: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    """As ``torch.optim.Optimizer.state_dict`` returns it."""
    state: Mapping[str, Any]
    """JSON data: metric window, random states, evaluations so far, seconds, …"""


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Undo :func:`path_of`, for a folder that carries a checkpoint's name."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and return its folder.

    Raises:
        RunError: it could not be written; nothing half-written is left under its name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = path_of(folder, checkpoint.step)
    tensors, skeleton = _take_apart(checkpoint.optimizer)
    try:
        with folder_aside(path) as aside:
            save_file(_own(checkpoint.trained), aside / "trained.safetensors")
            save_file(_own(tensors), aside / "optimizer.safetensors")
            state = {"format": FORMAT, "step": checkpoint.step, "optimizer": skeleton, **checkpoint.state}
            (aside / "state.json").write_text(json.dumps(state, default=_plain), encoding="utf-8")
            manifest = {file.name: _described(file) for file in sorted(aside.iterdir())}
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write the checkpoint {path}: {getattr(error, 'strerror', None) or error}.\n"
            "Make room or mend the permissions; --resume then goes on from the checkpoint before it."
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
        for name in ("trained.safetensors", "optimizer.safetensors", "state.json"):
            expected = manifest[name]
            file = path / name
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if _hash(file) != expected["blake2b"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read: {error}"
    return None


def set_aside(path: Path) -> None:
    """Take a damaged checkpoint's name from it, so that nothing mistakes it for a whole one; it is not deleted."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.replace(aside)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that :func:`verify` found sound."""
    from safetensors.torch import load_file

    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state.pop("format") != FORMAT:
        raise RunError(
            f"checkpoint {path} was written by another version of dpotrain and cannot be read by this one"
        )
    return Checkpoint(
        step=state.pop("step"),
        trained=load_file(path / "trained.safetensors"),
        optimizer=_put_together(state.pop("optimizer"), load_file(path / "optimizer.safetensors")),
        state=state,
    )


def prune(folder: Path, keep: int, but: set[int]) -> None:
    """Delete the oldest complete checkpoints beyond the newest ``keep``, sparing the steps in ``but``."""
    for path in complete(folder)[:-keep]:
        if step_of(path) not in but:
            # Renamed first: a kill in the middle must not leave half a checkpoint under a complete one's name.
            doomed = path.with_name(f".{path.name}.old")
            path.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _own(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Safetensors writes contiguous tensors that share no memory."""
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _take_apart(optimizer: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by name and JSON data that says where they belong."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    # 8-bit optimizers keep one quantization map for all parameters; a safetensors file holds it once.
    written: dict[tuple[int, torch.Size, torch.dtype], str] = {}

    def strip(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            place = (value.data_ptr(), value.shape, value.dtype)
            if value.numel() and place in written:
                return {"tensor": written[place]}
            written[place] = name
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"items": [[key, strip(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return [strip(item, f"{name}.{number}") for number, item in enumerate(value)]
        return value

    return tensors, strip(optimizer, "optimizer")


def _put_together(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(skeleton, dict):
        if "tensor" in skeleton:
            return tensors[skeleton["tensor"]]
        return {key: _put_together(item, tensors) for key, item in skeleton["items"]}
    if isinstance(skeleton, list):
        return [_put_together(item, tensors) for item in skeleton]
    return skeleton


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake2b": _hash(file)}


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy's numbers, as random states hold them."""
    return value.item() if hasattr(value, "item") else str(value)
