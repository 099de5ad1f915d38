"""What one forward pass saves for its backward pass, in bytes, by where in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.sharding.shards import local_shard


@dataclass(frozen=True, slots=True)
class SavedBytes:
    """What was found; no tensor, so that nothing of a pass stays in memory after it."""

    outside: int
    """Of embeddings, last norm and language-model head."""
    layers: tuple[int, ...]
    """Of each decoder layer."""
    inputs: tuple[int, ...]
    """Of each decoder layer's input; 0 where it saves nothing."""
    tiled: tuple[int, ...]
    """Of ``layers``, what computing modules of theirs in tiles would not keep; 0 of compiled layers, whose modules are
    not seen."""
    widest: int
    """Of the largest tensor."""
    widest_untiled: int
    """Of the largest that tiles would keep."""
    compiled: bool
    """Whether the layers are compiled."""


class _Recorder:
    """Counts what one forward pass saves for its backward pass; every storage once, weights never."""

    def __init__(
        self, model: nn.Module, batch: PackedPairs, per_token: Sequence[Sequence[nn.Module]] = ()
    ) -> None:
        self.modules = decoder_layers(model)
        self.outside = self.widest = self.widest_untiled = 0
        self.layers = [0] * len(self.modules)
        self.inputs = [0] * len(self.modules)
        self.tiled = [0] * len(self.modules)
        """Of ``layers``, what computing these modules of theirs in tiles would not keep."""
        self._per_token = per_token
        self.compiled = False
        self._inside: int | None = None
        self._given: int | None = None
        """The storage that the tileable module which is computing was given."""
        given = [*model.parameters(), *model.buffers(), batch.input_ids, batch.position_ids]
        given += [batch.predicting, batch.targets, batch.scored_tokens]
        # Holds the storages, so that none is freed and its address used by another.
        self._seen: dict[int, torch.Tensor] = {}
        self._leave_out(given)
        self._model = model

    def _leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count none of these, nor what shares memory with them."""
        for tensor in map(local_shard, tensors):
            self._seen[tensor.untyped_storage()._cdata] = tensor

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor that autograd saves, and return it detached.

        Attached, a function that saves its own output would be in a reference cycle that the garbage collector cannot
        see, and never be freed, nor anything before it.
        """
        identity = tensor.untyped_storage()._cdata
        if identity not in self._seen:
            self._seen[identity] = tensor.detach()
            size = tensor.untyped_storage().nbytes()
            self.widest = max(self.widest, size)
            if self._inside is None:
                self.outside += size
            else:
                self.layers[self._inside] += size
            if self._inside is not None and self._given not in (None, identity):
                self.tiled[self._inside] += size
            else:
                self.widest_untiled = max(self.widest_untiled, size)
        return tensor.detach()

    @contextmanager
    def watching_layers(self) -> Iterator[None]:
        """Track inside this context which layer is computing."""
        handles, compiled = [], {}
        for number, layer in enumerate(self.modules):
            if layer._compiled_call_impl is not None:  # which would compile hooks, or not see them
                compiled[layer] = layer._compiled_call_impl
                layer._compiled_call_impl = self._around(layer._compiled_call_impl, number)
                continue

            def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], at: int = number) -> None:
                # Sharded weights are whole now, in memory of their own.
                self._leave_out(self._model.parameters())
                self._enter(at, *args, *kwargs.values())

            def leave(*_: Any) -> None:
                self._inside = None

            handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(layer.register_forward_hook(leave))
            for module in self._per_token[number] if self._per_token else ():
                handles += self._watch(module, number)
        self.compiled = bool(compiled)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for layer, call in compiled.items():
                layer._compiled_call_impl = call

    def _enter(self, number: int, *given: Any) -> None:
        self._inside = number
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        self.inputs[number] = tensors[0].nbytes if tensors else 0

    def _around(self, call: Callable[..., Any], number: int) -> Callable[..., Any]:
        """Return a compiled layer's call that is tracked from outside."""

        def tracked(*args: Any, **kwargs: Any) -> Any:
            self._enter(number, *args, *kwargs.values())
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = None

        return tracked

    def _watch(self, module: nn.Module, layer: int) -> list[Any]:
        """Track when a module of a layer computes that can do so in tiles, which keep its input whatever it does."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._given = (*args, *kwargs.values())[0].untyped_storage()._cdata

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            if output.requires_grad and self._given not in self._seen:
                self.tiled[layer] -= (*args, *kwargs.values())[0].untyped_storage().nbytes()
            self._given = None

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def found(self) -> SavedBytes:
        """Return the sizes, after the forward pass."""
        return SavedBytes(
            outside=self.outside,
            layers=tuple(self.layers),
            # A layer that saves nothing has nothing trained in it or before it, and its input is not kept either.
            inputs=tuple(size if kept else 0 for size, kept in zip(self.inputs, self.layers, strict=True)),
            tiled=tuple(self.tiled),
            widest=self.widest,
            widest_untiled=self.widest_untiled,
            compiled=self.compiled,
        )


def record(
    model: nn.Module,
    batch: PackedPairs,
    forward: Callable[[PackedPairs], Any],
    per_token: Sequence[Sequence[nn.Module]] = (),
) -> SavedBytes:
    """Run ``forward`` on a micro-batch and return what it saves for its backward pass."""
    recorder = _Recorder(model, batch, per_token)
    # Of the pass itself nothing is kept: its graph goes with what it returns.
    with (
        recorder.watching_layers(),
        torch.autograd.graph.saved_tensors_hooks(recorder.save, lambda tensor: tensor),
    ):
        forward(batch)
    return recorder.found()
