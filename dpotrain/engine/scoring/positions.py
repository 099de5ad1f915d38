"""How many positions a model has, where it reads them from a table: learned embeddings, or sines in a buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.engine.scoring.rope_scaling import length_rules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dpotrain.data.prepare import PreparedData


def table_positions(model: PreTrainedModel) -> int | None:
    """Return the positions of a model's smallest table, on any device; None where it has none, as with rotary ones.

    Tables are known by their names: ``wpe``, ``embed_positions``, ``position_embeddings``, …
    """
    decoder: Any = model.get_decoder() or model  # a vision tower has tables, too
    found = []
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Embedding) and _of_positions(name):
            # The first rows of some are for padding: OPT and BART say how many, RoBERTa counts from its padding token.
            first = getattr(module, "offset", 0)
            if type(module) is nn.Embedding and module.padding_idx is not None:
                first = module.padding_idx + 1
            found.append(module.num_embeddings - first)
    for name, buffer in decoder.named_buffers():
        if _of_positions(name) and buffer.ndim == 2 and buffer.is_floating_point():
            found.append(len(buffer))
    if model.config.model_type == "mpt":  # its biases of attention are made for so many
        found.append(int(model.config.max_seq_len))
    return min(found, default=None)


def _of_positions(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last == "wpe" or "pos" in last


def check_positions(model: PreTrainedModel, what: str, data: PreparedData, max_length: int) -> str:
    """Refuse sequences that are longer than a model's table of positions: a GPU fails on them without a name.

    ``what`` is what the model is in the run. Returns a warning, or "": other models compute what is longer than they
    were trained for.

    Raises:
        RunError: there is such a sequence.
    """
    longest = data.longest()
    length = longest.longest()
    if (positions := table_positions(model)) is not None:
        if length <= positions:
            return ""
        sets = [each for each in (data.train, data.evaluation) if each is not None]
        longer = sum(int(np.sum(each.longest_sequences > positions)) for each in sets)
        raise RunError(
            f"{what} has {positions} positions, and data.max_length = {max_length} leaves sequences longer than that "
            f"in {longer} of {sum(map(len, sets))} pairs (row {longest.row} has {length} tokens).\n"
            f"Set data.max_length = {positions} (--set data.max_length={positions}), which cuts answers there, or use "
            "a model with more positions."
        )
    trained_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # Some rotary embeddings are made to be longer than that.
    if isinstance(trained_for, int) and length > trained_for and not length_rules(model, length):
        return (
            f"{what} is made for {trained_for} tokens (max_position_embeddings), and the longest sequence has "
            f"{length} (row {longest.row}).\nWhat it computes beyond is often poor; data.max_length = {trained_for} "
            "cuts answers there."
        )
    return ""
