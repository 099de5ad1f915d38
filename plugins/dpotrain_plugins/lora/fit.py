"""Where the options and the model do not fit: peft's errors by the key they are about, and what stays untrained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import RunError, RunWarning

from .targets import chosen_modules, nearest, out_of_reach, topmost

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from . import Lora

#: Words of peft's errors, in the order in which they are looked for, and the key of the table that they are about.
_ABOUT = {
    "modulestosave": "modules_to_save",
    "lora_dropout": "dropout",
    "dora": "dora",
    "target": "target_modules",
    "nn.parameter": "target_modules",
    "query/key/value": "target_modules",
}


@contextmanager
def naming_the_key(options: Lora.Options, policy: PreTrainedModel) -> Iterator[None]:
    """Turn what peft refuses into an error about the key of the recipe that it is about, with what to do."""
    # peft may leave the model half changed.
    kind, near = type(policy).__name__, nearest(policy, "")
    linear = sorted({name.rpartition(".")[2] for name in chosen_modules(policy, "all-linear")})
    try:
        yield
    except (ValueError, TypeError) as error:
        said = str(error).partition("\n")[0]
        key = next((key for words, key in _ABOUT.items() if words in said.lower()), None)
        if key is None:
            raise RunError(f"peft cannot put the adapter of [adapter] on {kind}: {said}") from error
        if key == "target_modules" and "were targeted" in said and options.modules_to_save:
            key, said = "modules_to_save", "it covers every module of adapter.target_modules"
        line = f"adapter.{key} = {getattr(options, key)!r} does not fit {kind}: {said}"
        if key in ("dropout", "dora"):
            wanted = ", ".join(f'"{name}"' for name in linear)
            line += (
                f"\nExperts that are held in one tensor a layer cannot have it. Leave adapter.{key} out, or name the "
                f"layers around them: adapter.target_modules = [{wanted}]"
            )
        elif key == "modules_to_save":
            line += "\nName modules that have weights of their own and get no adapter, such as the head"
        else:
            line += near
        raise RunError(line) from error


def warn_of_idle(policy: Any) -> None:
    """Warn of trained parameters in modules that text never passes: they would stay as they are.

    Raises a RunError where all are.
    """
    base = policy.get_base_model()
    idle = {name: base.get_submodule(name) for name in out_of_reach(base)}
    counts = {
        name: sum(weight.numel() for weight in idle[name].parameters() if weight.requires_grad)
        for name in topmost(set(idle))
    }
    counts = {name: count for name, count in counts.items() if count}
    if counts:
        trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
        if sum(counts.values()) == trained:
            raise RunError(
                f"adapter.target_modules names only modules in {', '.join(counts)}, which text never passes: nothing "
                "would be trained.\nName modules of the language model"
            )
        warnings.warn(
            f"{sum(counts.values()):,} of {trained:,} trained parameters are in {', '.join(counts)}, which text never "
            "passes: they stay as they are.\nadapter.target_modules can name the text's modules alone, by a regular "
            "expression for whole names.",
            RunWarning,
            stacklevel=2,
        )


def warn_of_dropout(policy: Any, dropout: float) -> None:
    """Warn of adapted embeddings, whose updates peft computes without dropout."""
    from peft.tuners.lora.layer import Embedding

    base = policy.get_base_model()
    names = sorted({name for name, module in base.named_modules() if isinstance(module, Embedding)})
    if dropout and names:
        warnings.warn(
            f"adapter.dropout = {dropout!r} has no effect on {', '.join(names)}: peft drops nothing of embeddings.",
            RunWarning,
            stacklevel=2,
        )


def warn_of_experts(policy: Any) -> None:
    """Warn of experts, held in one tensor a layer, that "all-linear" means and peft has not adapted."""
    import peft
    from peft.tuners.lora.layer import ParamWrapper
    from torch.nn.modules.conv import _ConvNd

    base = policy.get_base_model()
    adapted = {id(module.get_param()) for module in base.modules() if isinstance(module, ParamWrapper)}
    idle = out_of_reach(base)
    left: dict[str, nn.Parameter] = {
        f"{name}.{part}": weight
        for name, module in base.named_modules()
        if name not in idle and not isinstance(module, _ConvNd)
        for part, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and not weight.requires_grad and id(weight) not in adapted
    }
    if left:
        names = sorted({".".join(name.split(".")[-2:]) for name in left})
        count = sum(weight.numel() for weight in left.values())
        total = sum(weight.numel() for weight in base.parameters() if not weight.requires_grad)
        warnings.warn(
            f'adapter.target_modules = "all-linear" leaves out {count:,} of {total:,} parameters ({", ".join(names)}): '
            f"peft {peft.__version__} adapts no experts of this model, which are held in one tensor a layer.\nA later "
            "peft may (pip install -U peft); the other layers are trained either way.",
            RunWarning,
            stacklevel=2,
        )
