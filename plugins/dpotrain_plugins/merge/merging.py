"""An adapter written into the weights of its base, and the proof that the result computes the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api import Quantizer, RunError, folder_aside, save_model
from dpotrain_plugins.lora.merging import untie_what_differs
from dpotrain_plugins.transformers_loader.weights import loading_errors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


#: What log-probs are compared on. Any text does: the weights are the same for all.
TEXTS = (
    "What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b\n",
    "I am sorry, but I cannot help with that. Is there anything else that I can do for you today?",
    "1, 2, 3, 4, 5, 6, 7, 8, 9 and 10 are the numbers that most people begin with.",
)

#: Nats a token by which float32 itself may differ, adding in another order.
ROUNDING = 1e-4

#: The share of what training changed that rounding the merged weights may change.
LOST = 0.5


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model on disk."""

    folder: Path
    dtype: str
    difference: float
    """Mean difference of its log-probs from the unmerged model's, nats a token."""
    trained: float
    """Mean difference of the unmerged model's from the base's, likewise."""

    def __str__(self) -> str:
        return (
            f"{self.folder} ({self.dtype}; log-probs within {self.difference:.2g} nats a token of the unmerged "
            f"model's, which training moved by {self.trained:.2g})"
        )


def merge(
    adapter: Path,
    into: Path,
    *,
    dtype: str = "auto",
    quantizer: Quantizer | None = None,
    trust_remote_code: bool = False,
) -> Merged:
    """Write the adapter's updates into the weights of its base, and compare the result with the unmerged model.

    Works on the CPU, in float32, with one model in memory at a time.

    Args:
        adapter: folder that peft loads, with its tokenizer.
        into: the folder of the merged model; replaced if it is there.
        dtype: what the merged weights are saved in; "auto" is what the base was saved in.
        quantizer: what the base was quantized with in training. Its rounded weights, and not the original ones, are
            what the adapter is merged into: they are what it was trained on.
        trust_remote_code: run the Python code that comes with the base.

    Raises:
        RunError: there is no adapter, it cannot be merged, or the merged model does not compute the same. ``into``
            is as it was.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    base = _Base(adapter, quantizer, trust_remote_code)
    with loading_errors(str(adapter), "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(adapter)
    rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    if dtype == "auto":
        with loading_errors(base.name, "config"):
            kept = AutoConfig.from_pretrained(base.name, **base.options).dtype
        dtype = str(kept or torch.float32).removeprefix("torch.")

    model = base.load()
    before = _log_probs(model, rows)
    unmerged = _log_probs(_with_adapter(model, adapter), rows)
    del model  # one is in memory at a time
    with folder_aside(into) as aside:
        model = _merged(base, adapter).to(getattr(torch, dtype))
        save_model(model, aside)
        tokenizer.save_pretrained(aside)
        del model
        difference = _difference(
            _log_probs(_load(str(aside), trust_remote_code=trust_remote_code), rows), unmerged
        )
        result = Merged(into, dtype, difference, _difference(unmerged, before))
        _check(result)
    return result


class _Base:
    """The model that an adapter belongs to."""

    def __init__(self, adapter: Path, quantizer: Quantizer | None, trust_remote_code: bool) -> None:
        from peft import PeftConfig

        if not (adapter / "adapter_config.json").is_file():
            raise RunError(
                f"{adapter} holds no adapter (adapter_config.json is missing), so there is nothing to merge"
            )
        with loading_errors(str(adapter), "adapter"):
            config = PeftConfig.from_pretrained(str(adapter))
        self.name = str(config.base_model_name_or_path)
        self.quantizer = quantizer
        self.options = {"trust_remote_code": trust_remote_code}
        if config.revision is not None:
            self.options["revision"] = config.revision

    def load(self) -> PreTrainedModel:
        """Return the base as it was in training, in float32 or quantized."""
        if self.quantizer is None:
            return _load(self.name, **self.options)
        more = {"quantization_config": self.quantizer.loading_config(), "device_map": {"": "cpu"}}
        model = _load(self.name, **self.options, **more)
        self.quantizer.prepare(model)
        return model

    def load_to_merge(self) -> PreTrainedModel:
        """Return the same in float32, whatever its weights were rounded to by quantization."""
        import torch

        model = self.load()
        if self.quantizer is None:
            return model
        try:
            whole: PreTrainedModel = model.dequantize(dtype=torch.float32)
        except NotImplementedError as error:
            raise RunError(
                f'weights quantized by "{self.quantizer.name}" cannot be turned back into floats, so nothing can be '
                "merged into them; load the adapter on the quantized model instead"
            ) from error
        return whole


def _load(name: str, **options: Any) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with loading_errors(name, "model"):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, **options
        )
    return model


def _with_adapter(model: PreTrainedModel, adapter: Path) -> Any:
    from peft import PeftModel

    with loading_errors(str(adapter), "adapter"):
        return PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")


def _merged(base: _Base, adapter: Path) -> PreTrainedModel:
    wrapped = _with_adapter(base.load_to_merge(), adapter)
    if not hasattr(wrapped, "merge_and_unload"):
        kind = wrapped.peft_config["default"].peft_type
        raise RunError(f"{adapter} is an adapter of type {kind}, which cannot be merged into the weights")
    untie_what_differs(wrapped.get_base_model())
    merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def _log_probs(model: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    """Return the log-prob of every token after the first of each row, (tokens,) float32."""
    import torch

    found = []
    with torch.no_grad():
        for row in rows:
            table = model(input_ids=row[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            found.append(table.gather(1, row[1:, None])[:, 0])
    return torch.cat(found)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().mean().item()


def _check(result: Merged) -> None:
    difference, trained = result.difference, result.trained
    if math.isfinite(difference) and difference <= max(ROUNDING, LOST * trained):
        return
    remedy = (
        'Save it in more bits: dtype = "float32".'
        if result.dtype != "float32"
        else "The adapter, or its base, is not what it was trained with; load the adapter on its base instead."
    )
    raise RunError(
        f"merged and saved in {result.dtype}, the model's log-probs are {difference:.2g} nats a token away from the "
        f"unmerged model's, and all that training changed is {trained:.2g}; nothing was written.\n{remedy}"
    )
