"""Quantized weights that are sharded: their bytes are codes, which have to come back as they were.

``fully_shard`` cuts a weight into rows and gathers them into a plain parameter, whatever class the weight had. The
layers of a quantizer ask for that class and for what it carries (bitsandbytes: ``quant_state``), so the gathered
parameter, which is the same object each time, is given both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.engine.sharding.shards import gathered_layer, holds_codes, is_sharded


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A quantized weight, whole, and where it stands in the model."""

    name: str
    module: nn.Module
    attribute: str
    weight: nn.Parameter


def quantized_weights(
    policy: nn.Module, unit: nn.Module, whole: Collection[nn.Parameter]
) -> list[QuantizedWeight]:
    """Return the quantized weights that ``fully_shard`` is about to shard with a unit of a model.

    ``whole`` are the weights that it leaves as they are.
    """
    names = {module: name for name, module in policy.named_modules()}

    def found() -> Iterator[QuantizedWeight]:
        for module in unit.modules():
            for attribute, weight in module.named_parameters(recurse=False):
                if weight not in whole and not is_sharded(weight) and holds_codes(weight):
                    yield QuantizedWeight(f"{names[module]}.{attribute}", module, attribute, weight)

    return list(found())


def keep_kind(unit: nn.Module, quantized: Sequence[QuantizedWeight]) -> list[str]:
    """Give a sharded unit's quantized weights the class and attributes that they had. Collective.

    Returns the names of those that this process gathers with other bytes than it had.
    """
    altered = []
    # Of the shards a few things are asked, too, such as how many numbers a byte holds.
    for each in quantized:
        vars(each.module._parameters[each.attribute]).update(vars(each.weight))
    with gathered_layer(unit):
        for each in quantized:
            gathered: Any = each.module._parameters[each.attribute]
            if not _same_bytes(gathered, each.weight):
                altered.append(each.name)
                continue
            gathered.__class__ = type(each.weight)
            vars(gathered).update(vars(each.weight))
    return altered


def check_round_trip(altered: Sequence[Sequence[str]]) -> None:
    """Raise a RunError if any process, by rank, gathered quantized weights with other bytes than it had."""
    for rank, names in enumerate(altered):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RunError(
                f"sharded over processes, quantized weights do not come back as they were ({names[0]}{more}, on "
                f"process {rank}): torch {torch.__version__} or their quantizer changes the bytes, or the processes "
                "have not loaded the same weights.\n"
                "Train without sharding: --set 'parallel.shard=\"none\"'"
            )


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    # As bytes: in a dtype of numbers, codes may read as NaN, which equals nothing.
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(_bytes_of(one), _bytes_of(other))
    )


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().as_subclass(torch.Tensor).contiguous().flatten().view(torch.uint8)
