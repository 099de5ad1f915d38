"""What the files of a whole model say, against what is loaded from them: differences that libraries only log."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import LoadRequest, RunError, RunWarning, short

from .source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def check_quantization(config: PreTrainedConfig, source: Source, request: LoadRequest) -> None:
    """Raise where the weights were saved quantized, and the recipe does not say so or asks for something else.

    transformers loads them as they were saved in any case. Without a quantizer, layers would miss what it does to
    train around them.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    saved: dict[str, Any] = dict(found) if isinstance(found, Mapping) else found.to_dict()
    if saved.get("load_in_4bit") or saved.get("load_in_8bit"):
        saved.setdefault("quant_method", "bitsandbytes")  # checkpoints of 2023 name none
    method = str(getattr(saved.get("quant_method"), "value", saved.get("quant_method") or "unknown method"))
    if request.quantization is None:
        raise RunError(
            f"the weights in {source.path} are already quantized ({method}). Name the original weights, or add the "
            "[quantizer] table that fits"
        )
    wrong = [] if request.quantizer is None else request.quantizer.contradictions(saved)
    if wrong:
        other = any(line.startswith("quantizer.use ") for line in wrong)
        remedy = "Choose another quantizer" if other else "Set these keys to what the weights were saved with"
        raise RunError(
            "\n".join(
                [
                    f"the weights in {source.path} are already quantized ({method}), and not as [quantizer] says:",
                    *wrong,
                    f"{remedy}, or name the original weights in model.name",
                ]
            )
        )


def check_generation_config(source: Source) -> None:
    """Raise a RunError where a folder's generation_config.json cannot be read: it is saved with the trained model."""
    from transformers import GenerationConfig

    file = Path(source.path) / "generation_config.json"
    if not file.is_file():
        return
    try:
        GenerationConfig.from_pretrained(source.path)
    except Exception as error:  # its values lead the library anywhere
        said = short(" ".join(str(error).split()), 300)
        raise RunError(f"{file} cannot be read: {said}. Correct that file, or remove it") from error


def check_files(source: Source) -> None:
    """Raise a RunError that names a file of weights that is cut off or damaged; only its header is read."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(
        Path(source.path).glob("*.safetensors")
    ):  # none for a hub name, whose files have a checksum
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise RunError(f"{file} is damaged ({error}); fetch or copy it again") from error


def check_weights(model: PreTrainedModel, info: Mapping[str, Any], source: Source) -> None:
    """Raise unless the checkpoint's weights and the model's are the same; warn of weights of parts it does without.

    Args:
        model: the model as it was loaded.
        info: what ``from_pretrained`` returns with ``output_loading_info=True``.
        source: the checkpoint.
    """
    import torch

    kind = model.config.model_type
    if mismatched := sorted(info["mismatched_keys"]):
        name, has, wants = mismatched[0]
        raise RunError(
            f"{len(mismatched)} of the weights in {source.path} have another shape than its config.json says ({name} "
            f"is {list(has)}, and config.json means {list(wants)}). Correct config.json, or fetch the model again"
        )
    if missing := sorted(info["missing_keys"]):
        raise RunError(
            f"{source.path} lacks {len(missing)} of the weights of a {kind} model ({some(missing)}), which would be "
            "left random; is it a whole causal language model?"
        )
    unused, modules = sorted(info["unexpected_keys"]), dict(model.named_modules())
    # A bias or a scale beside a parameter of a layer changes what it computes. Other weights may be of parts that the
    # model does without, such as a head for something else.
    parts = [
        name
        for name in unused
        if (layer := modules.get(name.rpartition(".")[0])) is not None and layer._parameters
    ]
    if parts:
        raise RunError(
            f"{source.path} has weights that its layers would be without ({some(parts)}): its config.json describes "
            "another model than the one that was saved. Correct config.json (bias and quantization keys), or fetch the "
            "model again"
        )
    if unused:
        warnings.warn(
            f"{len(unused)} of the weights in {source.path} are used by nothing in a {type(model).__name__} "
            f"({some(unused)}).\nIf they are part of the model, its config.json is wrong (its count of layers?).",
            RunWarning,
            stacklevel=2,
        )
    floats = {
        name: weight.detach()
        for name, weight in model.named_parameters()
        # Quantized weights are integers, or tensors of a class of their own.
        if weight.is_floating_point()
        and not weight.is_meta
        and weight.dtype.itemsize > 1
        and type(weight.data) is torch.Tensor
        and weight.numel()
    }
    broken = [name for name, weight in floats.items() if not torch.stack(weight.aminmax()).isfinite().all()]
    if broken:
        raise RunError(
            f"{len(broken)} of the weights in {source.path} hold numbers that are not finite ({some(broken)}); fetch "
            "the model again, or save it anew in more bits"
        )


def some(names: Iterable[str]) -> str:
    """Return the first three of some names, as a message lists them."""
    listed = list(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
