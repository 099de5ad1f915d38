"""The table ``[parallel]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dpotrain.recipe.sections.base import Section


class ParallelSection(Section):
    """How the processes of a launched run share memory and pairs. Without effect on results, but for rounding."""

    shard: Literal["auto", "none", "all"] = Field(
        "auto",
        description='"all" shards the weights over the processes, with their gradients and optimizer state; each '
        "decoder layer is gathered while it computes. With an adapter these are the frozen weights, also in the 4 bits "
        "of `bnb-4bit`; other quantized weights are refused. "
        '"none" holds all of them on every process, which exchanges less. "auto" is "none" where that fits on every '
        "GPU with the longest pair, and on CPUs; otherwise the weights are sharded over the processes of a machine if "
        "that is enough, or over all. The header says which, and why.",
    )
    group: int | None = Field(
        None,
        ge=2,
        description="Number of processes that hold one copy of the weights together, neighbours in rank: with those of "
        "a machine, weights are gathered inside it, and machines exchange gradients once a step. All processes unless "
        "set.",
    )
    offload: Literal["cpu"] | None = Field(
        None,
        description='"cpu" keeps the sharded weights, their gradients and optimizer state in the host\'s memory, where '
        "the optimizer updates them: less memory of a GPU, more time. Without effect on a CPU.",
    )
    context: int = Field(
        1,
        ge=1,
        description="Processes that compute each pair together, each an equal part of its tokens: for pairs whose "
        "activations do not fit one device. It divides the number of processes, and the attention heads of the model; "
        "needs packed pairs.",
    )

    @model_validator(mode="after")
    def _shards(self) -> ParallelSection:
        if self.shard == "none" and (self.group is not None or self.offload is not None):
            key = "group" if self.group is not None else "offload"
            raise ValueError(
                f'{key} is for weights that are sharded, and shard = "none" shards none; remove one'
            )
        return self
