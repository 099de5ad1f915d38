"""Which modules the options mean, and what a person may have meant instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dpotrain.plugin.api import RunError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from . import Lora


#: Model types whose fused kernels read a layer's weight past the layer, where an adapter would not be seen.
_READ_PAST = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


def heads(model: nn.Module) -> set[nn.Module]:
    """Return the language-model heads; one may belong to a whole model inside the model."""
    from transformers import PreTrainedModel

    own = [part.get_output_embeddings() for part in model.modules() if isinstance(part, PreTrainedModel)]
    return {head for head in own if head is not None}


def out_of_reach(model: nn.Module) -> set[str]:
    """Return the names of the modules that text never passes: towers and projectors for images and sound.

    Text passes the decoder and the head of a model that has a configuration of its own for text.
    """
    if model.config.get_text_config() is model.config:  # type: ignore[operator, union-attr]
        return set()
    inside = {*model.get_decoder().modules(), *heads(model)}  # type: ignore[operator]
    return {name for name, module in model.named_modules() if inside.isdisjoint(module.modules())}


def topmost(names: set[str]) -> list[str]:
    """Return the names of modules that are inside no other module among ``names``, sorted."""
    return sorted(name for name in names if name.rpartition(".")[0] not in names)


def excluded(model: nn.Module) -> str | None:
    """Return a regular expression for the whole names of what peft's own "all-linear" has in excess."""
    ends = [rf"(?:.*\.)?{end}" for end in _read_past(model)]
    towers = [rf"{re.escape(name)}(?:\..*)?" for name in topmost(out_of_reach(model))]
    found_by_peft = model.get_output_embeddings()  # type: ignore[operator]
    inner = heads(model) - {found_by_peft}
    more = [re.escape(name) for name, module in model.named_modules() if module in inner]
    return "|".join([*ends, *towers, *more]) or None


def _read_past(model: nn.Module) -> list[str]:
    return ["out_proj"] if getattr(model.config, "model_type", None) in _READ_PAST else []


def chosen_modules(model: nn.Module, targets: str | list[str]) -> set[str]:
    """Return the full names of the modules that ``target_modules`` means in a transformers model."""
    linear = _linear_modules(model)
    if targets == "all-linear":
        left_out, own_heads = re.compile(excluded(model) or "(?!)"), heads(model)
        return {
            name
            for name in linear
            if model.get_submodule(name) not in own_heads and not left_out.fullmatch(name)
        }
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        return {name for name in names if re.fullmatch(targets, name)}
    return {name for name in names if any(_ends(name, target) for target in targets)}


def check_names(model: nn.Module, options: Lora.Options) -> None:
    """Raise a RunError that names every module in the options which the model does not have.

    peft itself only complains when none of them is there.
    """
    if not chosen_modules(model, options.target_modules):
        wanted = options.target_modules
        asked = wanted if isinstance(wanted, str) else wanted[0]
        raise RunError(
            f"adapter.target_modules = {wanted!r} fits no module of {type(model).__name__}{nearest(model, asked)}"
        )
    names = [name for name, _ in model.named_modules()]
    lists = {"target_modules": options.target_modules, "modules_to_save": options.modules_to_save}
    for key, wanted in lists.items():
        if isinstance(wanted, str):
            continue
        for asked in wanted:
            # peft takes any end of a name in modules_to_save, whole components of one in target_modules.
            fits = str.endswith if key == "modules_to_save" else _ends
            if not any(fits(name, asked) for name in names):
                raise RunError(
                    f'adapter.{key}: {type(model).__name__} has no module "{asked}"{nearest(model, asked)}'
                )


def nearest(model: nn.Module, asked: str) -> str:
    """Return what follows a name that the model does not have: the nearest one, and the linear modules."""
    linear = sorted({name.rpartition(".")[2] for name in _linear_modules(model)})
    every = {name.rpartition(".")[2] for name, _ in model.named_modules()} - {""}
    near = did_you_mean(asked.rpartition(".")[2], sorted(every))
    return f"{near}\nits linear modules are {', '.join(linear)}"


def _linear_modules(model: nn.Module) -> list[str]:
    """Return the names of linear layers, quantized ones and GPT-2's transposed ones included."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
