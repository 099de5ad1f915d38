"""What the safetensors files of a checkpoint say they hold, looked at before any of it is given memory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RunError, short

if TYPE_CHECKING:
    import torch

#: As safetensors names them. A policy may be held in more bits on one machine than on another.
_FLOATS = frozenset({"F32", "BF16", "F16"})

#: Of an optimizer's tensors, those that have a value for every weight.
_MOMENTS = frozenset({"exp_avg", "exp_avg_sq", "state1", "state2"})
_OF_WEIGHT = re.compile(r"optimizer\.state\.(\d+)\..*?([^.]+)")

#: Elements that an optimizer's tensor may have whatever its weight's size: 8-bit ones keep a table of 256 values.
_SMALL = 256


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor as a header has it."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class NotWholeError(ValueError):
    """A file is not a whole safetensors file; the message says why."""


def described(file: Path) -> dict[str, Described]:
    """Return what a file holds, by name.

    Only the header is read: it is refused where it is none, where a tensor's size is not its shape's and dtype's, or
    where the tensors do not fill exactly the bytes that are there.

    Raises:
        NotWholeError: the file is no whole safetensors file.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            slices = [(name, opened.get_slice(name)) for name in opened.keys()]  # noqa: SIM118  # no mapping
            return {name: Described(str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices}
    except SafetensorError as error:
        raise NotWholeError(f"{file.name} is no whole safetensors file: {short(str(error))}") from error


def check_fits(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    shapes: Sequence[tuple[int, ...]],
    *,
    reference: bool = False,
) -> None:
    """Compare a checkpoint's headers with what is to be filled: the trained weights and their optimizer's state.

    ``shapes`` are those of the optimizer's weights, in its order. The weights of a reference that moves are looked at
    where there are any; with ``reference`` there must be.

    Raises:
        RunError: a tensor is missing, too many, of another shape, or of a dtype that holds no weights.
    """
    _check_weights(path / "trained.safetensors", weights)
    if reference or (path / "reference.safetensors").exists():
        _check_weights(path / "reference.safetensors", weights)
    for name, one in _described(path / "optimizer.safetensors").items():
        place = _OF_WEIGHT.fullmatch(name)
        if place is None:
            fits = prod(one.shape) <= _SMALL
        elif int(place[1]) >= len(shapes):
            fits = False
        elif place[2] in _MOMENTS:
            fits = one.shape == tuple(shapes[int(place[1])])
        else:
            fits = prod(one.shape) <= max(_SMALL, prod(shapes[int(place[1])]))
        if not fits:
            raise RunError(
                f"{path} does not fit the optimizer: it holds {name} as {one}.\n"
                "Resume with the [optimizer] table that it was made with."
            )


def _check_weights(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    held, path = _described(file), file.parent
    if held.keys() != weights.keys():
        odd = sorted(held.keys() ^ weights.keys())
        raise RunError(
            f"{path} is of another model: {len(odd)} tensors are only there or only here ({', '.join(odd[:3])}).\n"
            "Resume with the [model] and [adapter] tables that it was made with."
        )
    for name, one in held.items():
        if one.shape != tuple(weights[name].shape) or one.dtype not in _FLOATS:
            raise RunError(
                f"{path} does not fit the model: it holds {name} as {one}, and the model has "
                f"{list(weights[name].shape)} of floating-point numbers.\n"
                "Resume with the [model] and [adapter] tables that it was made with."
            )


def _described(file: Path) -> dict[str, Described]:
    try:
        return described(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file.parent} cannot be read: {error}") from error
