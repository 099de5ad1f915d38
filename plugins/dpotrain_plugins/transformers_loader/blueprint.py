"""The model on the meta device: every module and shape, and no weight."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from dpotrain_plugins.lora.merging import untie_what_differs

from .adapter_checks import adapter_shapes, check_adapter_config, check_adapter_weights
from .checks import check_files, check_generation_config, check_quantization
from .source import Source, resolve
from .weights import load_config, loading_errors, silence, silence_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from dpotrain.plugin.api import LoadRequest

    from . import TransformersLoader


def blueprint(options: TransformersLoader.Options, request: LoadRequest) -> PreTrainedModel:
    """Return what :func:`.weights.load_model` would, not quantized and without numbers.

    Only configurations are read, and the file of an adapter.
    """
    import torch

    source = resolve(request.source or options.name, options.revision if request.source is None else None)
    check_files(source.model)
    check_generation_config(source.model)
    config = load_config(source.model, options)
    check_quantization(config, source.model, request)
    silence_config(config)
    saved = getattr(config, "dtype", None) or torch.float32
    with loading_errors(source.path, "model"), torch.device("meta"):
        model = from_config(
            config, options, saved if options.dtype == "auto" else getattr(torch, options.dtype)
        )
    for module in model.modules():
        silence(module)
    if source.base is not None:
        model = _with_adapter(model, source, request)
    whole: PreTrainedModel = model.train()
    return whole


def from_config(config: PreTrainedConfig, options: TransformersLoader.Options, dtype: torch.dtype) -> Any:
    """Return a model with initial weights, on the device of the context."""
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {} if options.attention == "auto" else {"attn_implementation": options.attention}
    return AutoModelForCausalLM.from_config(
        config, dtype=dtype, trust_remote_code=options.trust_remote_code, **kwargs
    )


def _with_adapter(model: PreTrainedModel, source: Source, request: LoadRequest) -> Any:
    """Return the base with the source's adapter, or as if that were merged into it."""
    import torch
    from peft import PeftConfig, get_peft_model

    check_files(source)
    check_adapter_config(source)
    with loading_errors(source.path, "adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = PeftConfig.from_pretrained(source.path)
        if not request.keep_adapter and adapter.peft_type != "LORA":
            return model  # not all types can be put on a model without weights
        adapter.inference_mode = not request.keep_adapter
        with adapter_shapes(model, source):
            with torch.device("meta"):
                wrapped = get_peft_model(model, adapter)
            check_adapter_weights(wrapped, source)
    if request.keep_adapter:
        return wrapped
    untie_what_differs(wrapped.get_base_model())
    return wrapped.unload()
