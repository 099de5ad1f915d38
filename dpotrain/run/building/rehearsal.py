"""The result, saved before training but for its weights: what cannot be saved is found before the first step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.core.errors import RunError, describe_exception
from dpotrain.core.write_errors import system_error
from dpotrain.plugin.api import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def rehearse_saving(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: Adapter) -> None:
    """Save what the result will hold beside its weights into a folder that is thrown away, before any training.

    Raises:
        RunError: the tokenizer or a configuration cannot be saved.
    """
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
                raise RunError(
                    f"{what} cannot be saved, which would end the run after its last step: "
                    f"{describe_exception(error)}\nCorrect the model's files in {policy.name_or_path}; they say what "
                    "is saved."
                ) from error
