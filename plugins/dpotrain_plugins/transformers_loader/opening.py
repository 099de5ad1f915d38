"""The model with its weights still in their files: each process of a sharded run reads only its own rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import LoadRequest, OpenedModel

from .blueprint import from_config
from .source import Source, files_by_tensor, resolve
from .weights import load_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from . import TransformersLoader


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A tensor in a safetensors file, of which rows are read when they are asked for."""

    file: Path
    name: str

    def __getitem__(self, index: Any) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_slice(self.name)[index]
            return tensor


def open_model(options: TransformersLoader.Options, request: LoadRequest) -> OpenedModel | None:
    """Return what :func:`.weights.load_model` would, no weight being read.

    None where a weight is not one tensor of one file as it is: quantized, with an adapter merged into it, put together
    of several tensors, or tied to another one that has a tensor of its own.
    """
    source = resolve(request.source or options.name, options.revision if request.source is None else None)
    if request.quantization is not None or source.base is not None:
        return None
    model = load_whole(source, options, replace(request, device="meta")).train()
    tensors = _tensors(model, source)
    if tensors is None or not _each_has_one(model, tensors):
        return None
    _put_buffers(model, tensors, options)
    if any(buffer.is_meta for buffer in model.buffers()):
        return None
    return OpenedModel(model, {name: tensors[name] for name, _ in _parameters(model) if name in tensors})


def _tensors(model: PreTrainedModel, source: Source) -> dict[str, FileSlice] | None:
    """Return the tensors of the files by the names that transformers gives them; None where it makes new ones."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:
        return None
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    prefix, own = model.base_model_prefix, model.state_dict()
    tensors: dict[str, FileSlice] = {}
    for key, file in files_by_tensor(source).items():
        name, made = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, made = rename_source_key(key, [], [], prefix, own)
        if name not in own:
            continue  # nothing in the model uses it, of which loading has warned
        if made is not None or name in tensors:
            return None
        tensors[name] = FileSlice(file, key)
    return tensors


def _each_has_one(model: PreTrainedModel, tensors: Mapping[str, FileSlice]) -> bool:
    """Whether each parameter has one tensor; two that are tied by the config may have two, which may differ."""
    if any(name in tensors and tied in tensors for name, tied in model.all_tied_weights_keys.items()):
        return False
    found = {id(weight) for name, weight in _parameters(model) if name in tensors}
    return all(id(weight) in found for weight in model.parameters())


def _parameters(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    return list(model.named_parameters(remove_duplicate=False))


def _put_buffers(
    model: PreTrainedModel, tensors: Mapping[str, FileSlice], options: TransformersLoader.Options
) -> None:
    """Give the buffers their numbers: those of the files, and otherwise what the modules compute."""
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), torch.random.fork_rng(devices=[]):
        computed = dict(from_config(model.config, options, model.config.dtype).named_buffers())
    for name, buffer in dict(model.named_buffers()).items():
        module, _, own = name.rpartition(".")
        made = tensors[name][...].to(buffer.dtype) if name in tensors else computed.get(name, buffer)
        model.get_submodule(module)._buffers[own] = made
