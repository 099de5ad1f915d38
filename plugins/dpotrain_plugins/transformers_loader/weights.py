"""The weights: safetensors only, in train mode, with nothing random in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import DpotrainError, LoadRequest, RunError, short
from dpotrain_plugins.lora.merging import untie_what_differs

from .adapter_checks import adapter_shapes, changed_weights, check_adapter_config, check_adapter_weights
from .checks import check_files, check_generation_config, check_quantization, check_weights
from .source import Source, check_shards_on_hub, resolve

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from . import TransformersLoader


#: Parts of the names under which configs and modules keep what makes a forward pass random in training:
#: attention_dropout, resid_pdrop, layerdrop, router_jitter_noise, …
_RANDOM = ("drop", "jitter")


def load_model(options: TransformersLoader.Options, request: LoadRequest) -> PreTrainedModel:
    """Return the model that the request asks for, in ``train()`` mode, every dropout at zero.

    Raises:
        RecipeError: a folder is missing or holds no model.
        RunError: whatever else keeps the weights from being loaded whole.
    """
    source = resolve(request.source or options.name, options.revision if request.source is None else None)
    if source.base is not None and not request.keep_adapter and request.quantization is not None:
        raise RunError(
            f"{source.path} is an adapter, and merging it into quantized weights would round them anew. "
            "Merge it into the unquantized base model first (peft's merge_and_unload) and name the result, "
            "or leave out [quantizer]"
        )
    model = load_whole(source.model, options, request)
    if source.base is not None:
        model = _put_adapter(model, source, request)
    return model.train()


def load_config(source: Source, options: TransformersLoader.Options) -> PreTrainedConfig:
    """Return a whole model's config, as it was saved."""
    from transformers import AutoConfig

    with loading_errors(source.path, "config"):
        return AutoConfig.from_pretrained(
            source.path, revision=source.commit or "main", trust_remote_code=options.trust_remote_code
        )


def load_whole(source: Source, options: TransformersLoader.Options, request: LoadRequest) -> PreTrainedModel:
    """Return a whole model, every dropout at zero; on the device "meta" without reading a weight or a buffer."""
    from transformers import AutoModelForCausalLM

    if source.commit is not None:
        check_shards_on_hub(source)
    check_files(source)
    check_generation_config(source)
    config = load_config(source, options)
    check_quantization(config, source, request)
    silence_config(config)
    kwargs: dict[str, Any] = {} if options.attention == "auto" else {"attn_implementation": options.attention}
    if request.quantization is not None:
        kwargs["quantization_config"] = request.quantization
    # Tensors go from the file, whose memory all processes of a machine share, to their device; a CPU uses them there.
    kwargs["device_map"] = {"": request.device}
    with _no_progress_bars(), loading_errors(source.path, "model"):
        model, info = AutoModelForCausalLM.from_pretrained(
            source.path,
            config=config,
            revision=source.commit or "main",
            dtype=options.dtype,
            use_safetensors=True,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **kwargs,
        )
    check_weights(model, info, source)
    for module in model.modules():
        silence(module)
    # transformers keeps no record of the commit, but leaves this name out of saved configs; an adapter notes it.
    model.config._commit_hash = source.commit
    loaded: PreTrainedModel = model
    return loaded


def _put_adapter(model: PreTrainedModel, source: Source, request: LoadRequest) -> PreTrainedModel:
    """Put the source's adapter on its base: trainable, or merged into the weights."""
    from peft import PeftModel

    check_files(source)
    check_adapter_config(source)
    changed = changed_weights(model, source) if request.keep_adapter else ()
    with loading_errors(source.path, "adapter"), adapter_shapes(model, source):
        wrapped: Any = PeftModel.from_pretrained(
            model, source.path, is_trainable=request.keep_adapter, torch_device=request.device
        )
        check_adapter_weights(wrapped, source, changed)
    if request.keep_adapter:
        return wrapped
    if not hasattr(wrapped, "merge_and_unload"):
        kind = wrapped.peft_config["default"].peft_type
        raise RunError(f"{source.path} is an adapter of type {kind}, which cannot be merged into the weights")
    untie_what_differs(wrapped.get_base_model())
    with loading_errors(source.path, "adapter"):
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def silence_config(config: PreTrainedConfig) -> None:
    """Silence a config before its model is built: modules read their probabilities when they are constructed."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        silence(part)


def silence(owner: PreTrainedConfig | torch.nn.Module) -> None:
    """Set every probability and noise that the owner keeps to zero."""
    from torch import nn

    if isinstance(owner, nn.modules.dropout._DropoutNd):
        owner.p = 0.0
    for name, value in list(vars(owner).items()):
        if isinstance(value, float) and any(part in name for part in _RANDOM):
            setattr(owner, name, 0.0)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars out of the run's own display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _model_type(path: str) -> str:
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(path).model_type)
    except Exception:  # what it describes is only told
        return "different"


@contextmanager
def loading_errors(path: str, what: str) -> Iterator[None]:
    """Turn what transformers and peft raise for a bad checkpoint into a few lines."""
    try:
        yield
    except DpotrainError:
        raise
    except (
        Exception
    ) as error:  # a config can lead them anywhere: to a division by zero, or an attribute of None
        text = str(error).strip() or type(error).__name__
        if "trust_remote_code" in text:
            raise RunError(
                f"{path} comes with its own Python code. Read it, and if you trust it set "
                "model.trust_remote_code = true"
            ) from error
        if "safetensors" in text and not Path(path).is_dir():
            raise RunError(
                f"{path} has no safetensors weights on the hub, and pickles are not read. Look for a "
                "converted copy, or download it and convert it with transformers' save_pretrained"
            ) from error
        if "Unrecognized configuration class" in text:
            raise RunError(
                f"{path} is no causal language model that transformers knows: its config.json describes a "
                f"{_model_type(path)} model. Name a decoder-only model for text in model.name"
            ) from error
        lines = [line for line in text.splitlines() if line.strip()]
        raise RunError(f"the {what} of {path} cannot be loaded: {short(' '.join(lines[:2]), 400)}") from error
