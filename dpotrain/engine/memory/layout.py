"""How a run is spread over devices: who holds which part of the weights, and who computes which tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpotrain.core.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Layout:
    """A number of processes, each with a device of its own.

    Raises:
        RecipeError: the devices cannot be divided so.
    """

    devices: int = 1
    shards: int | None = None
    """Ranks among which one copy of the weights is split by rows; None: every rank has all weights."""
    context: int = 1
    """Ranks that share the tokens of a micro-batch (context parallelism)."""
    offload: bool = False
    """Whether shards, their gradients and the optimizer's state of them are in the host's memory."""

    def __post_init__(self) -> None:
        for key, part in (("parallel.context", self.context), ("parallel.group", self.shards or 1)):
            if self.devices % part:
                raise RecipeError(
                    f"{key} = {part} does not divide the run's {self.devices} "
                    f"device{'s' * (self.devices != 1)}.\n"
                    f"Set {key} to a number that does, or use a multiple of {part} devices."
                )

    @property
    def data_ranks(self) -> int:
        """Groups of ranks that compute pairs of their own."""
        return self.devices // self.context

    @property
    def copies(self) -> int:
        """Copies of the weights, over all devices."""
        return self.devices // (self.shards or 1)

    def __str__(self) -> str:
        return ", ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        if self.shards is None:
            yield "replicated"
        elif self.shards == self.devices:
            yield f"sharded over {'all ' * (self.devices > 1)}{self.devices}"
        else:
            yield f"sharded over groups of {self.shards}"
        if self.context > 1:
            yield f"context of {self.context}"
        if self.offload:
            yield "shards in the host's memory"


#: A run of one process.
ONE_DEVICE = Layout()
