"""Saving a transformers model so that no file beside its weights can stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GENERATION = "generation_config.json"


def save_model(model: PreTrainedModel, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write a model with its configurations into a folder, the generation config as it was loaded.

    transformers refuses to save a generation config that contradicts itself (a temperature beside
    ``do_sample = false``), as some published ones do, although it loads them.

    Args:
        model: a whole model.
        folder: where the files go.
        weights: what is saved in the place of the model's own weights; empty for the configurations alone.
    """
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    try:
        if own is not None:
            model.generation_config = GenerationConfig()
        model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
    finally:
        if own is not None:
            model.generation_config = own
    if own is not None and (folder / _GENERATION).exists():
        own.to_json_file(folder / _GENERATION, use_diff=True, keys_to_pop=["compile_config"])
