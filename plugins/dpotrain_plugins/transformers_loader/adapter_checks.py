"""What an adapter's files say, against its base model and what the installed peft makes of them."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import RunError, RunWarning, short

from .checks import some
from .source import Source, read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: torch's line for a tensor of another shape than the parameter that it is meant for.
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[([\d, ]*)\]\)"
)
#: How peft names the tensors of the one adapter of a model, after the path of their module.
_ADAPTER = "default"


def check_adapter_config(source: Source) -> None:
    """Warn of keys in an adapter's config that the installed peft does not know; they may change what it computes.

    Raises:
        RunError: peft does not know the type of the adapter.
    """
    import peft

    file = Path(source.path) / "adapter_config.json"
    saved = read_json(file)
    kind = saved.get("peft_type")
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    if config is None:
        raise RunError(
            f"{file}: peft {peft.__version__} knows no adapter of type {kind!r}. Upgrade peft (pip install -U peft), "
            "or correct peft_type"
        )
    known = {field.name for field in dataclasses.fields(config)}
    odd = {key: value for key, value in saved.items() if key not in known and _is_set(value)}
    if odd:
        keys = ", ".join(f"{key} = {short(str(value))}" for key, value in sorted(odd.items()))
        warnings.warn(
            f"peft {peft.__version__} ignores {keys} of {file}.\nThe adapter may compute something else than where it "
            "was trained: upgrade peft (pip install -U peft), or remove what has no effect on it from the file.",
            RunWarning,
            stacklevel=2,
        )


def check_adapter_weights(wrapped: Any, source: Source, changed: Collection[str] = ()) -> None:
    """Put the weights of an adapter's file on a peft model, and raise unless each has its place, and each place one.

    Args:
        wrapped: the base model with the adapter of this source; it may be on the meta device.
        source: the adapter.
        changed: tensors of the file that are not the base model's, where the adapter is to be trained on.

    Raises:
        RunError: tensors are missing, not finite, or belong to nothing in the model, or they change the base model,
            which the trained adapter would be saved without.
    """
    import torch
    from peft import load_peft_weights, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    config = wrapped.peft_config[_ADAPTER]
    if config.is_prompt_learning or config.is_adaption_prompt:
        return  # kept outside of the model's modules
    mapping = getattr(wrapped.get_base_model(), "_checkpoint_conversion_mapping", None)
    weights: dict[str, torch.Tensor] = load_peft_weights(source.path, device="cpu", key_mapping=mapping)
    file = Path(source.path) / "adapter_model.safetensors"
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise RunError(
            f"{file} has numbers that are not finite ({some(broken)}); train or fetch the adapter again"
        )
    if any(parameter.is_meta for parameter in wrapped.parameters()):
        weights = {name: tensor.to("meta") for name, tensor in weights.items()}
    result = set_peft_model_state_dict(wrapped, weights, adapter_name=_ADAPTER)
    own = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    missing = [name for name in result.missing_keys if _ADAPTER in name.split(".") and own in name]
    # Some other types share tensors between layers, which have no place of their own.
    surplus = [name for name in result.unexpected_keys if config.peft_type == "LORA" or own in name]
    where = f"adapter_config.json and the base model {source.model.path}"
    if surplus:
        raise RunError(
            f"{len(surplus)} of the {len(weights)} tensors in {file} belong to no module that {where} name "
            f"({some(map(_plain, surplus))}).\nTraining would go on from another model than the one that was saved: "
            "correct target_modules, modules_to_save or base_model_name_or_path in adapter_config.json"
        )
    if missing:
        raise RunError(
            f"{file} lacks {len(missing)} tensors that {where} ask for ({some(map(_plain, missing))}): some of its "
            "weights are missing.\nCorrect target_modules, modules_to_save or base_model_name_or_path in "
            "adapter_config.json"
        )
    base = [name for name, _ in wrapped.named_parameters() if name in changed]
    if base:
        raise RunError(
            f"{file} has changed weights of the base model itself ({some(base)}), which an adapter trained on from it "
            "would be saved without.\nMerge it into its base model first (peft's merge_and_unload) and name the result "
            "in model.name"
        )


def changed_weights(base: PreTrainedModel, source: Source) -> set[str]:
    """Return the names of tensors in an adapter's file that have other values than the base model's own weights.

    Modules trained in full are among them.
    """
    import torch
    from safetensors import safe_open

    own, changed = dict(base.named_parameters()), set()
    with safe_open(Path(source.path) / "adapter_model.safetensors", framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            weight = own.get(name.removeprefix("base_model.model.").replace(".base_layer.", "."))
            if weight is None or list(weight.shape) != tensors.get_slice(name).get_shape():
                continue
            if not torch.equal(tensors.get_tensor(name).to(weight), weight):
                changed.add(name)
    return changed


@contextmanager
def adapter_shapes(base: PreTrainedModel, source: Source) -> Iterator[None]:
    """Say what to do where the tensors of an adapter are not of the base model's shapes."""
    ends = {
        name
        for name, module in base.named_modules()
        if module is base.get_input_embeddings() or module is base.get_output_embeddings()
    }
    try:
        yield
    except RuntimeError as error:
        found = [(name, *map(_sizes, sizes)) for name, *sizes in _MISMATCH.findall(str(error))]
        if not found:
            raise
        for name, has, wants in found:
            # The low-rank matrix of an embedding has a column a token; everything else of both ends has a row.
            turn = -1 if "lora_embedding_A" in name else 1
            (tokens, *rest), (rows, *needed) = has[::turn], wants[::turn]
            if any(f".{end}." in name for end in ends) and rest == needed:
                raise RunError(_resized(source, tokens, rows)) from error
        name, has, wants = found[0]
        raise RunError(
            f"the adapter in {source.path} does not fit its base model {source.model.path}: {len(found)} of its "
            f"tensors have another shape ({_plain(name)} is {list(has)}, and the base needs {list(wants)}).\nCorrect "
            "base_model_name_or_path in adapter_config.json, or r and rank_pattern where those were changed"
        ) from error


def _resized(source: Source, tokens: int, rows: int) -> str:
    base, adapter = source.model.path, source.path
    merged = f"{adapter}-merged" if source.commit is None else "merged-adapter"
    command = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; from peft import PeftModel as P; "
        f"m = M.from_pretrained('{base}'); m.resize_token_embeddings({tokens}); "
        f"P.from_pretrained(m, '{adapter}').merge_and_unload().save_pretrained('{merged}'); "
        f"T.from_pretrained('{adapter}').save_pretrained('{merged}')"
    )
    return (
        f"the adapter in {adapter} was trained with an embedding of {tokens} tokens, and its base model {base} has "
        f"{rows}. Resize the base, merge the adapter into it once, and name the result ({merged}) in model.name:\n"
        f'  python -c "{command}"'
    )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size.strip())


def _plain(name: str) -> str:
    """Return a tensor's name as it is in the file."""
    return ".".join(part for part in name.split(".") if part != _ADAPTER)


def _is_set(value: Any) -> bool:
    """Whether a value may have an effect: null, false, zero and what holds nothing else have none."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    if isinstance(value, list):
        return any(map(_is_set, value))
    return bool(value)
