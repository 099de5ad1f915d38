"""Optimizers: from gradients to updates of the weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.returns import is_a, is_number, optional, returns

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Trained:
    """One trained tensor."""

    numbers: int
    bytes_each: int
    name: str = ""
    """Its name in the policy."""
    shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of the tensor, and of its gradient."""
        return self.numbers * self.bytes_each


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(map(is_number, value))
        and 0 < value[0] <= value[1]
    )


class Optimizer(Component):
    """Turns gradients into updates of the weights; selected by ``[optimizer]``."""

    kind = "optimizer"

    smaller: ClassVar[str | None] = None
    """Name of an optimizer with the same options that keeps a smaller state, which ``dpotrain plan`` proposes."""

    class Options(Component.Options):
        """Every optimizer has a learning rate: the core multiplies it by what the schedule says."""

        lr: float = Field(gt=0, description="Peak learning rate.")

    options: Options

    @abstractmethod
    @returns("a torch.optim.Optimizer", is_a("torch.optim", "Optimizer"))
    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer over all of ``weights``: what is trained, by its name in the policy.

        Before every step the engine sets ``lr`` of each parameter group to what it was when this returned, times
        the schedule's factor; gradients are clipped by then. The optimizer's ``state_dict`` goes into checkpoints
        and has to hold everything that the next step depends on, as tensors and plain values.
        """

    @returns("a number of bytes, an int", lambda value: isinstance(value, int) and value >= 0)
    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Return the bytes of the optimizer's state, of which micro-batches have to leave room.

        As here, two moments in the dtype of each weight, unless a subclass knows better.
        """
        return sum(2 * weight.bytes for weight in weights)

    @returns("the lowest and highest of two numbers above 0, or None", optional(_is_range))
    def usual_lr(self, adapter: bool) -> tuple[float, float] | None:
        """Return the lowest and highest learning rate usual for DPO: of what an adapter adds, or of the model.

        A recipe far outside gets a warning; None, as here, never gives one.
        """
        return None


@hookspec
def dpotrain_optimizers() -> Iterable[type[Optimizer]]:  # type: ignore[empty-body]
    """Offer optimizers, which turn gradients into updates.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch or the optimizer's library at the top of its module.

    Result: classes. ``[optimizer] use`` picks one by ``name``; a table that does not say means "adamw".

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import Optimizer


        class LoraPlus(Optimizer):
            name = "lora-plus"

            class Options(Optimizer.Options):
                ratio: float = Field(16.0, gt=0, description="How much faster LoRA's second matrices learn.")

            def build(self, weights):
                import torch

                second = [weight for name, weight in weights.items() if "lora_B" in name]
                others = [weight for name, weight in weights.items() if "lora_B" not in name]
                groups = [
                    {"params": others, "lr": self.options.lr},
                    {"params": second, "lr": self.options.lr * self.options.ratio},
                ]
                return torch.optim.AdamW([group for group in groups if group["params"]])


        @hookimpl
        def dpotrain_optimizers():
            return [LoraPlus]
    """
