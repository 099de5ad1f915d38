"""What a checkpoint holds, as tensors by file and JSON data, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Of a checkpoint; another one is refused.
FORMAT = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is needed to go on as if nothing had happened."""

    step: int
    trained: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    """As ``torch.optim.Optimizer.state_dict`` returns it."""
    state: Mapping[str, Any]
    """JSON data: metric window, random states, evaluations so far, seconds, …"""
    components: Mapping[str, Any] = field(default_factory=dict)
    """What components keep (:meth:`dpotrain.plugin.api.Component.state_dict`), by who they are."""
    reference: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The weights of a reference that moves, named as those of ``trained``; none of another."""
    copies: bool = False
    """Whether weights and optimizer are copies in host memory, which training leaves as they are."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint as it is written: the numbers of the moment, unless they are still those being trained."""

    step: int
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    """By the name of their file, without its ending: ``trained``, ``optimizer``, ``components``, ``reference``."""
    state: str
    """JSON: everything else, and where in optimizer and components the tensors belong."""
    live: frozenset[str]
    """The files whose tensors are those being trained."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Snapshot:
        """Take a checkpoint apart. The tensors are not copied: see :meth:`copied`."""
        optimizer, optimizer_skeleton = _take_apart(checkpoint.optimizer, "optimizer")
        components, components_skeleton = _take_apart(checkpoint.components, "components")
        tensors = {
            "trained": _contiguous(checkpoint.trained),
            "optimizer": optimizer,
            "components": components,
        }
        if checkpoint.reference:
            tensors["reference"] = _contiguous(checkpoint.reference)
        state = {
            "format": FORMAT,
            "step": checkpoint.step,
            "optimizer": optimizer_skeleton,
            "components": components_skeleton,
            **checkpoint.state,
        }
        live = frozenset({"components"} if checkpoint.copies else tensors)
        return cls(checkpoint.step, tensors, json.dumps(state, default=_plain), live)

    @property
    def live_bytes(self) -> int:
        """The size of what :meth:`copied` copies."""
        return sum(each.nbytes for file in self.live for each in self.tensors[file].values())

    def copied(self) -> Snapshot:
        """Return a copy in host memory, which further training leaves as it is."""
        copies = {
            file: {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
            if file in self.live
            else tensors
            for file, tensors in self.tensors.items()
        }
        return Snapshot(self.step, copies, self.state, frozenset())


def put_together(state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Checkpoint:
    """Undo :meth:`Snapshot.of`: ``state`` is its JSON, read, and ``tensors`` are by file."""
    rest = dict(state)
    return Checkpoint(
        step=rest.pop("step"),
        trained=tensors["trained"],
        optimizer=_filled(rest.pop("optimizer"), tensors["optimizer"]),
        components=_filled(rest.pop("components"), tensors["components"]),
        state=rest,
        reference=tensors.get("reference", {}),
    )


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Safetensors writes contiguous tensors that share no memory.
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _take_apart(value: Mapping[str, Any], name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split a state into its tensors, whose names begin with ``name``, and JSON data that says where they belong."""
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
            tensors[name] = value.detach().contiguous()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"items": [[key, strip(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return [strip(item, f"{name}.{number}") for number, item in enumerate(value)]
        return value

    return tensors, strip(value, name)


def _filled(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo :func:`_take_apart`; a tuple comes back as a list."""
    if isinstance(skeleton, dict):
        if "tensor" in skeleton:
            return tensors[skeleton["tensor"]]
        return {key: _filled(item, tensors) for key, item in skeleton["items"]}
    if isinstance(skeleton, list):
        return [_filled(item, tensors) for item in skeleton]
    return skeleton


def _plain(value: Any) -> Any:
    """Numpy's numbers, as random states hold them."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is neither a tensor nor plain data")
