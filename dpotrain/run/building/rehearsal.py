"""The result, saved before training but for its weights: what cannot be saved is found before the first step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RunError, describe_exception
from dpotrain.core.write_errors import system_error
from dpotrain.plugin.api import Adapter
from dpotrain.plugin.api.returns import WrongReturnError
from dpotrain.plugin.runtime.failures import failure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def rehearse_saving(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Adapter, label: str
) -> None:
    """Save what the result will hold beside its weights into a folder that is thrown away, before any training.

    ``label`` names the adapter with its plugin; "" for the core's own.

    Raises:
        RunError: the tokenizer or a configuration cannot be saved.
        WrongReturnError: a checkpoint would lack trained weights.
    """
    _check_state(policy, adapter)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        parts: dict[str, Callable[[], object]] = {
            "the tokenizer": lambda: tokenizer.save_pretrained(folder),
            "the model's configuration (config.json, generation_config.json or adapter_config.json)": lambda: (
                adapter.rehearse_saving(policy, Path(folder))
            ),
        }
        for what, save in parts.items():
            try:
                save()
            except Exception as error:
                if system_error(error) is not None:
                    return  # the folder for temporary files is full, which says nothing about the run's
                fault = describe_exception(error)
                if label and what != "the tokenizer":
                    fault = failure(label, "rehearse_saving", error, type(adapter).__module__)
                raise RunError(
                    f"{what} cannot be saved, which would end the run after its last step: {fault}\n"
                    f"Correct the model's files in {policy.name_or_path}; they say what is saved."
                ) from error


def _check_state(policy: PreTrainedModel, adapter: Adapter) -> None:
    """Raise a WrongReturnError where the adapter's state, which checkpoints hold, is less than what is trained."""
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    held = sum(tensor.numel() for tensor in adapter.state(policy).values())
    if held < trained:
        raise WrongReturnError(
            f"state returned {held:,} numbers, and {trained:,} are trained; it must return every trained tensor, or a "
            "resumed run goes on without the others",
            adapter,
        )
