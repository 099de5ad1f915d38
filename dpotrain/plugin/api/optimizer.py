"""Optimizers: from gradients to updates of the weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from dpotrain.plugin.api.component import Component, Options, hookspec
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


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


class WeightGroup(Options):
    """A table of ``[[optimizer.groups]]``: weights by their names, and what is different for them."""

    match: str = Field(
        min_length=1,
        description="Pattern of names of trained weights, in which `*` stands for any text: `*embed_tokens*`.",
    )
    lr: float | None = Field(None, gt=0, description="Peak learning rate of these weights.")
    weight_decay: float | None = Field(
        None, ge=0, description="Weight decay of these weights, biases and norms among them too."
    )

    @model_validator(mode="after")
    def _says_something(self) -> WeightGroup:
        if self.lr is None and self.weight_decay is None:
            raise ValueError("give lr, weight_decay or both")
        return self


class Optimizer(Component):
    """Turns gradients into updates of the weights; selected by ``[optimizer]``."""

    kind = "optimizer"

    smaller: ClassVar[str | None] = None
    """Name of an optimizer with a smaller state, which ``dpotrain plan`` proposes with the options that both have."""
    elementwise: ClassVar[bool] = False
    """Whether an update of a number depends on nothing but its own gradients and state, as in Adam: :meth:`build` may
    then be given some rows of each matrix, where processes shard the weights (``parallel.shard``). A norm
    over a matrix, a factored second moment or blocks of 8-bit numbers depend on others."""

    class Options(Component.Options):
        """Every optimizer has a learning rate, which the core multiplies by what the schedule says, and groups.

        The engine splits the parameter groups of what :meth:`Optimizer.build` returns by ``groups``; an optimizer has
        nothing to do for them.
        """

        lr: float = Field(gt=0, description="Peak learning rate.")
        groups: tuple[WeightGroup, ...] = Field(
            (),
            description="Weights with a learning rate or weight decay of their own, by name. The first group that "
            "matches a weight counts.",
        )

    options: Options

    @abstractmethod
    @returns("a torch.optim.Optimizer", is_a("torch.optim", "Optimizer"))
    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer over all of ``weights``: what is trained, by its name in the policy.

        The engine then splits its parameter groups by ``[[optimizer.groups]]``, before the first step: a group of
        the recipe's with an ``lr`` gets the rate that it had, times the group's ``lr`` over ``[optimizer] lr``. Before
        every step it sets ``lr`` of each parameter group to what it was then, times the schedule's factor; gradients
        are clipped by then. So a step has to take its settings from ``param_groups``. The optimizer's ``state_dict``
        goes into checkpoints and has to hold everything that the next step depends on, as tensors and plain values.
        """

    @returns("a number of bytes, an int", _is_size)
    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Return the bytes of the optimizer's state, of which micro-batches have to leave room.

        As here, two moments in the dtype of each weight, unless a subclass knows better.
        """
        return sum(2 * weight.bytes for weight in weights)

    @returns("a number of bytes, an int", _is_size)
    def paged_bytes(self, weights: Sequence[Trained]) -> int:
        """Return how many bytes of the state move to host memory while a GPU needs the room; none unless overridden.

        On a GPU micro-batches leave no room for these.
        """
        return 0

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
