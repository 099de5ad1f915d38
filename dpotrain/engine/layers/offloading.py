"""The inputs of checkpointed layers in the host's memory, from the forward pass to the backward pass.

By torch's own hooks on saved tensors, within which each layer is checkpointed. On CUDA the copies run on a stream of
their own: a layer's input leaves while the layer computes, and comes back while the layer behind it computes again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dpotrain.engine.layers.checkpointing import decoder_layers

#: Inputs that may be on the device at the same time: the layer's own, one on its way out, one on its way back.
ON_DEVICE = 3


def offload_inputs(policy: nn.Module) -> int:
    """Have the inputs of the checkpointed layers wait in the host's memory, in place; return of how many layers.

    On a CPU they are copied within the same memory, which only a test wants.
    """
    copies = _Copies()
    layers = [layer for layer in decoder_layers(policy) if layer.gradient_checkpointing]
    for number, layer in enumerate(layers):
        layer._gradient_checkpointing_func = _OnHost(layer._gradient_checkpointing_func, number, copies)
    return len(layers)


def exclude_from_compilation() -> None:
    """Have torch.compile leave such layers as they are, from their checkpoint on; a second call changes nothing.

    It cannot trace hooks that copy. A decorator would import the compiler with this
    module, before anything is shown.
    """
    if not hasattr(_OnHost.__call__, "_torchdynamo_disable"):
        _OnHost.__call__ = torch.compiler.disable(_OnHost.__call__)  # type: ignore[method-assign,no-untyped-call]


def host_bytes(size: float) -> int:
    """Return what a tensor of so many bytes takes: torch allocates pinned memory by powers of two."""
    return 1 << max(0, int(size) - 1).bit_length()


class _OnHost:
    """Checkpoints a layer, with its input on the host."""

    def __init__(self, checkpoint: Callable[..., Any], number: int, copies: _Copies) -> None:
        self._checkpoint, self._number, self._copies = checkpoint, number, copies

    def __call__(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._checkpoint(*args)
        # What the layer saves inside is recomputed; these hooks get what checkpointing itself saves.
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._copies.unpack):
            return self._checkpoint(*args)

    def _pack(self, tensor: torch.Tensor) -> _Copy | torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return self._copies.pack(self._number, tensor)


class _Copy:
    """A tensor on the host, and on the device while it is about to be used."""

    def __init__(self, number: int, tensor: torch.Tensor) -> None:
        self.number = number
        self.device = tensor.device
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        self.left: torch.cuda.Event | None = None
        """When the copy to the host is complete."""
        self.back: torch.Tensor | None = None
        self.arrived: torch.cuda.Event | None = None


class _Copies:
    """The copies of one model's inputs."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._of_layer: dict[int, weakref.ref[_Copy]] = {}

    def pack(self, number: int, tensor: torch.Tensor) -> _Copy:
        copy = _Copy(number, tensor)
        self._of_layer[number] = weakref.ref(copy)
        if not tensor.is_cuda:
            copy.host.copy_(tensor)
            return copy
        if self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(tensor.device)
        # No more than two are on their way out: the device's memory is what this is about.
        earlier = self._get(number - 2)
        if earlier is not None and earlier.left is not None:
            current.wait_event(earlier.left)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            copy.host.copy_(tensor, non_blocking=True)
            copy.left = self._stream.record_event()
        tensor.record_stream(self._stream)
        return copy

    def unpack(self, copy: _Copy | torch.Tensor) -> torch.Tensor:
        if isinstance(copy, torch.Tensor):
            return copy
        if self._stream is None:
            return copy.host
        self._fetch(copy)
        assert copy.back is not None
        assert copy.arrived is not None
        torch.cuda.current_stream(copy.device).wait_event(copy.arrived)
        tensor, copy.back = copy.back, None
        earlier = self._get(copy.number - 1)
        if earlier is not None:
            self._fetch(earlier)
        return tensor

    def _fetch(self, copy: _Copy) -> None:
        """Begin to copy back."""
        if copy.back is not None or self._stream is None:
            return
        # Allocated for the stream that computes, whose earlier work may still use that memory.
        copy.back = torch.empty(copy.host.shape, dtype=copy.host.dtype, device=copy.device)
        self._stream.wait_stream(torch.cuda.current_stream(copy.device))
        with torch.cuda.stream(self._stream):
            copy.back.copy_(copy.host, non_blocking=True)
            copy.arrived = self._stream.record_event()

    def _get(self, number: int) -> _Copy | None:
        found = self._of_layer.get(number)
        return None if found is None else found()
