"""The model on the meta device: every module and shape, and no weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .source import resolve
from .weights import load_config, loading_errors, refuse_already_quantized, silence, silence_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.plugin.api import LoadRequest

    from . import TransformersLoader


def blueprint(options: TransformersLoader.Options, request: LoadRequest) -> PreTrainedModel:
    """Return what :func:`.weights.load_model` would, not quantized, without numbers; only configs are read."""
    import torch
    from transformers import AutoModelForCausalLM

    source = resolve(request.source or options.name, options.revision if request.source is None else None)
    config = load_config(source.model, options)
    refuse_already_quantized(config, source.model, request)
    silence_config(config)
    saved = getattr(config, "dtype", None) or torch.float32
    kwargs: dict[str, Any] = {} if options.attention == "auto" else {"attn_implementation": options.attention}
    with loading_errors(source.path, "model"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=saved if options.dtype == "auto" else getattr(torch, options.dtype),
            trust_remote_code=options.trust_remote_code,
            **kwargs,
        )
    for module in model.modules():
        silence(module)
    if source.base is not None and request.keep_adapter:
        from peft import PeftConfig, get_peft_model

        with loading_errors(source.path, "adapter"), torch.device("meta"):
            adapter = PeftConfig.from_pretrained(source.path)
            adapter.inference_mode = False
            model = get_peft_model(model, adapter)
    whole: PreTrainedModel = model.train()
    return whole
