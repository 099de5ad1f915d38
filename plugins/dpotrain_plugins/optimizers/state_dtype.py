"""AdamW whose moments are kept in another dtype than that of the weights. Imports torch at the top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim.adamw import adamw

from dpotrain_plugins.optimizers.updating import Updating, weights_of

#: Numbers that are updated at once, by device: on a CPU their float32 copies stay in the cache, and on a GPU few
#: kernels are launched.
BATCH_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 23}


class StateDtypeAdamW(Updating):
    """torch's fused AdamW over float32 copies of a batch of numbers at a time, so that they never exist of all weights.

    Weights, gradients and moments in float32 are not copied. Moments in bfloat16 are rounded stochastically, up with
    the probability that makes the mean exact (as in Zamirai et al. 2020, arXiv 2010.06192): with ``beta2 = 0.999`` a
    second moment changes by less than a thousandth of what the squared gradient differs from it, and the distance of
    bfloat16 numbers is 1/128 to 1/256 of them. What is drawn follows from the count of steps alone, so that a resumed
    run and every process of a run draw the same.

    Weights in bfloat16 are rounded to the nearest, as torch does.
    """

    def __init__(
        self,
        params: Sequence[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        state_dtype: torch.dtype,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._dtype = state_dtype
        for weight in weights_of(self):
            # The layout in memory is that of the numbers that are cut into batches.
            weight.data = weight.data.contiguous()
            self.state[weight] = {
                # On the host, so that drawing does not wait for the device.
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(weight, dtype=state_dtype),
                "exp_avg_sq": torch.zeros_like(weight, dtype=state_dtype),
            }

    def update(self) -> None:
        """Update all weights that have a gradient."""
        noise: _Noise | None = None
        for group in self.param_groups:
            updated = [weight for weight in group["params"] if weight.grad is not None]
            for weight in updated:
                self.state[weight]["step"] += 1
            for batch in _batches(self._pieces(updated)):
                if noise is None and self._dtype == torch.bfloat16:
                    noise = _Noise(int(batch[0].step), batch[0].weight.device)
                _update(batch, group, noise)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state without casting the moments to the dtype of the weights, as torch does."""
        super().load_state_dict(dict(state_dict))
        weights = weights_of(self)
        for number, state in state_dict["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                moment = state[name].to(weights[number].device, self._dtype, copy=True)
                self.state[weights[number]][name] = moment

    def _pieces(self, weights: Sequence[torch.nn.Parameter]) -> Iterator[_Piece]:
        """Yield the weights with their gradients and moments in pieces of no more than a batch."""
        for weight in weights:
            state, gradient = self.state[weight], weight.grad
            assert gradient is not None
            size = BATCH_NUMBERS.get(weight.device.type, BATCH_NUMBERS["cpu"])
            tensors = (weight, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"])
            cut = (torch.split(each.detach().view(-1), size) for each in tensors)
            for part, its_gradient, first, second in zip(*cut, strict=True):
                yield _Piece(part, its_gradient, first, second, float(state["step"]))


class _Piece(NamedTuple):
    """Some numbers of a weight, their gradients and moments, each (N,)."""

    weight: torch.Tensor
    gradient: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    step: float


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Yield consecutive pieces together that are no more than a batch."""
    batch: list[_Piece] = []
    numbers = 0
    for piece in pieces:
        size = len(piece.weight)
        if batch and numbers + size > BATCH_NUMBERS.get(piece.weight.device.type, BATCH_NUMBERS["cpu"]):
            yield batch
            batch, numbers = [], 0
        batch.append(piece)
        numbers += size
    if batch:
        yield batch


def _update(batch: Sequence[_Piece], group: Mapping[str, Any], noise: _Noise | None) -> None:
    device = batch[0].weight.device
    weights = _Wide([piece.weight for piece in batch])
    gradients = _Wide([piece.gradient for piece in batch])
    firsts = _Wide([piece.first for piece in batch])
    seconds = _Wide([piece.second for piece in batch])
    beta1, beta2 = group["betas"]
    adamw(
        weights.tensors,
        gradients.tensors,
        firsts.tensors,
        seconds.tensors,
        [],
        # It counts the step itself.
        [torch.full((), piece.step - 1, dtype=torch.float32, device=device) for piece in batch],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    weights.write_back()
    for moment, drawn in ((firsts, 0), (seconds, 1)):
        if noise is not None:
            noise.add(moment.copies, drawn)
        moment.write_back()


class _Wide:
    """Tensors in float32: themselves, or copies that lie one behind the other in ``copies`` (N,)."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._narrow = [each for each in tensors if each.dtype != torch.float32]
        sizes = [len(each) for each in self._narrow]
        self.copies = torch.empty(sum(sizes), dtype=torch.float32, device=tensors[0].device)
        self._views = list(torch.split(self.copies, sizes)) if sizes else []
        if sizes:
            torch._foreach_copy_(self._views, self._narrow)
        views = iter(self._views)
        self.tensors = [each if each.dtype == torch.float32 else next(views) for each in tensors]

    def write_back(self) -> None:
        """Round the copies to the nearest numbers of the tensors that they are of."""
        if self._narrow:
            torch._foreach_copy_(self._narrow, self._views)


class _Noise:
    """What makes rounding to bfloat16 stochastic: numbers below the distance of bfloat16 numbers, as 16 low bits.

    They are drawn once a step and serve every batch of it, the two moments others: drawing takes longer than the rest
    of the update, and the mean over steps is exact for each number all the same.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        size = BATCH_NUMBERS.get(device.type, BATCH_NUMBERS["cpu"])
        # One more, so that each moment of a number has another.
        self._bits = torch.randint(
            1 << 16, (size + 1,), dtype=torch.int32, device=device, generator=generator
        )

    def add(self, values: torch.Tensor, which: int) -> None:
        """Replace float32 ``values`` (N,) by one of the two bfloat16 numbers around each, in place."""
        bits = values.view(torch.int32)
        # The bits of a float are those of its size after the sign: what the sum carries beyond 16 bits rounds up.
        bits.add_(self._bits[which : which + len(bits)]).bitwise_and_(-(1 << 16))
