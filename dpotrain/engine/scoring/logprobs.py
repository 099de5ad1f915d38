"""Log-probabilities of scored tokens without the full logits.

Only hidden states of predicting tokens reach the language-model head, and the vocabulary is taken in tiles: a
tile's logits stay in the cache and leave a running maximum and a running sum behind, as the scores of a block do
in FlashAttention (arXiv:2205.14135, section 3.1). Matrix products run in the compute dtype, everything after them
in float32. The full ``tokens x vocabulary`` tensor never exists, forward or backward.

Three ways, by what the head is:
- a frozen plain linear layer: the forward pass forms the gradient with respect to the hidden states, and keeps that;
- a trained one (also tied to the embeddings): the backward pass computes each tile again, and its weights' gradient;
- anything else (LoRA on the head, 4-bit weights): the module is called on chunks of rows, under checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpotrain.engine.scoring.statistics import RunningStatistics, of_logits

#: Logits of one tile, by device: on a CPU 4 MB of float32 stay in the cache, and more are slower; a GPU wants large
#: matrix products, and 256 MB are small beside its memory.
TILE_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
#: Logits of one chunk of rows, where the head is not a plain linear layer: its whole weight is read for every chunk.
ROW_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
#: Narrower tiles would be all overhead, however many rows there are.
NARROWEST_TILE = 256


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does between its head and its logits: ``softcap * tanh(scale * x / softcap)``."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Apply to float32 outputs of the head."""
        scaled = raw if self.scale == 1.0 else raw * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Return the derivative of ``logits`` with respect to the head's output; None where it is 1 everywhere."""
        if self.softcap is not None:
            return (1 - (logits / self.softcap) ** 2).mul_(self.scale)
        return None if self.scale == 1.0 else torch.full_like(logits, self.scale)


def token_log_probs(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    transform: LogitTransform,
    statistics: Sequence[str] = (),
    *,
    fused: bool = False,
) -> torch.Tensor:
    """Return log p(target | hidden) of every row, (S,) float32, or (S, 1 + statistics) with these beside it.

    ``hidden`` (S, hidden size) are the last hidden states of the predicting tokens, ``targets`` (S,) int64; ``head``
    and then ``transform`` map hidden states to logits. ``statistics`` are names of :data:`.statistics.STATISTICS`.
    ``fused`` is whether the Triton kernels of :mod:`dpotrain.engine.kernels.triton_head` serve a plain linear head;
    statistics are computed without.
    """
    hooked = head._forward_hooks or head._forward_pre_hooks
    if type(head) is nn.Linear and not hooked and head.weight.dtype.is_floating_point:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        trained = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
        function = _TrainedHead if trained and torch.is_grad_enabled() else _FrozenHead
        log_probs, more = function.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, targets, transform, dtype, tuple(statistics), fused
        )
        return torch.cat([log_probs[:, None], more], 1) if statistics else log_probs
    return _any_head(hidden, head, targets, transform, statistics)


def completion_sums(log_probs: torch.Tensor, scored_tokens: torch.Tensor) -> torch.Tensor:
    """Sum token log-probs, (S,) float32, over completions of ``scored_tokens`` (P, 2) tokens: (P, 2) float32."""
    lengths = scored_tokens.reshape(-1)
    # The lengths are known to be right; checking them would wait for the device.
    return torch.segment_reduce(log_probs, "sum", lengths=lengths, unsafe=True).view(-1, 2)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Some words of the vocabulary, for all rows."""

    raw: torch.Tensor
    """(S, words) in the compute dtype: what the head's product is for them, for the tile's user to overwrite."""
    bias: torch.Tensor | None
    """(words,)."""
    table: torch.Tensor
    """(words, hidden size) in the compute dtype: the head's rows for these words."""
    words: slice
    targets: torch.Tensor
    """(S,) int64: the rows' targets, counted over the whole vocabulary."""

    def logits(self, transform: LogitTransform) -> torch.Tensor:
        """Return (S, words) float32."""
        raw = self.raw.float()
        if self.bias is not None:
            raw += self.bias
        return transform(raw)

    # No indexing by a mask in what follows: a GPU would have to be waited for.

    @property
    def inside(self) -> torch.Tensor:
        """(S,) bool: whether the row's target is one of the words."""
        inside: torch.Tensor = (self.targets >= self.words.start) & (self.targets < self.words.stop)
        return inside

    @property
    def place(self) -> torch.Tensor:
        """(S, 1) int64: the target's place among the words, or any place where it is not inside."""
        place: torch.Tensor = (self.targets - self.words.start).clamp_(
            0, self.words.stop - self.words.start - 1
        )
        return place[:, None]


def _tiles(
    low: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> Iterator[_Tile]:
    """Yield the products of ``low`` (S, hidden size), in the compute dtype, with the head, tile by tile."""
    room = TILE_LOGITS.get(low.device.type, TILE_LOGITS["cpu"])
    width = max(NARROWEST_TILE, room // max(1, len(low)))
    for words in _slices(len(weight), width):
        table = weight[words].to(low.dtype)
        yield _Tile(F.linear(low, table), None if bias is None else bias[words], table, words, targets)


class _Normalizer:
    """The log-sum-exp of every row, updated tile by tile."""

    def __init__(
        self, hidden: torch.Tensor, transform: LogitTransform, statistics: Sequence[str], fused: bool
    ) -> None:
        self.transform, self.fused = transform, fused
        self.statistics = RunningStatistics(statistics)
        self.largest = hidden.new_full((len(hidden), 1), -torch.inf, dtype=torch.float32)
        self.total = torch.zeros_like(self.largest)
        self.target = torch.zeros_like(self.largest)[:, 0]

    def add(self, tile: _Tile, keep: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Add a tile.

        With ``keep`` return (S, words) in the compute dtype, otherwise None: exponentials relative to the largest logit
        so far, times the derivatives of the logits. Returned as well is the (S, 1) factor that rescales what was summed
        before to that logit.
        """
        if self.fused and not self.statistics.names:
            return self._add_fused(tile, keep)
        logits = tile.logits(self.transform)
        slope = self.transform.slope(logits) if keep else None
        self.target = torch.where(tile.inside, logits.gather(1, tile.place)[:, 0], self.target)
        largest = torch.maximum(self.largest, logits.amax(1, keepdim=True))
        drop = self.largest - largest
        powers = logits.sub_(largest).exp_()
        if self.statistics.names:
            self.statistics.add(powers, drop, self.total)
        shrink = drop.exp_()
        self.total = self.total.mul_(shrink).add_(powers.sum(1, keepdim=True))
        self.largest = largest
        if slope is not None:
            powers.mul_(slope)
        return powers.to(tile.raw.dtype) if keep else None, shrink

    def _add_fused(self, tile: _Tile, keep: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        from dpotrain.engine.kernels.triton_head import add_tile

        sums = (self.largest, self.total, self.target)
        scale, softcap = self.transform.scale, self.transform.softcap
        shrink = add_tile(tile.raw, tile.bias, tile.targets, tile.words.start, scale, softcap, sums, keep)
        return tile.raw if keep else None, shrink

    @property
    def log_sum(self) -> torch.Tensor:
        """(S, 1) float32."""
        return self.largest + self.total.log()

    def asked(self, ctx: Any) -> torch.Tensor | None:
        """Return the statistics, (S, names) without gradients, to be called within a forward; None without any."""
        if not self.statistics.names:
            return None
        found = self.statistics.result(self.total)
        ctx.mark_non_differentiable(found)
        return found


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        transform: LogitTransform,
        dtype: torch.dtype,
        statistics: tuple[str, ...],
        fused: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        norm = _Normalizer(hidden, transform, statistics, fused)
        wanted = ctx.needs_input_grad[0]
        # The gradient of log p(target) is the target's row of the head less the mean row under p; this sums the
        # mean, scaled as the exponentials are.
        mean = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if wanted else None
        with torch.autocast(hidden.device.type, enabled=False):
            for tile in _tiles(hidden.to(dtype), weight, bias, targets):
                powers, shrink = norm.add(tile, keep=wanted)
                if mean is not None and powers is not None:
                    mean.mul_(shrink).add_(powers @ tile.table)
            slopes = None
            if mean is not None:
                own = weight.index_select(0, targets).to(dtype).float()
                at_target = transform.slope(norm.target)
                if at_target is not None:
                    own *= at_target[:, None]
                slopes = own.sub_(mean.div_(norm.total)).to(hidden.dtype)
        ctx.save_for_backward(slopes)
        return norm.target - norm.log_sum[:, 0], norm.asked(ctx)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: object) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None, None, None, None, None, None


class _TrainedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        transform: LogitTransform,
        dtype: torch.dtype,
        statistics: tuple[str, ...],
        fused: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        norm = _Normalizer(hidden, transform, statistics, fused)
        with torch.autocast(hidden.device.type, enabled=False):
            for tile in _tiles(hidden.to(dtype), weight, bias, targets):
                norm.add(tile, keep=False)
        log_sum = norm.log_sum
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum)
        ctx.transform, ctx.dtype, ctx.fused = transform, dtype, fused
        return norm.target - log_sum[:, 0], norm.asked(ctx)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: object) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, log_sum = ctx.saved_tensors
        dhidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        dweight = torch.empty_like(weight)
        dbias = None if bias is None else torch.empty_like(bias)
        gradient = _fused_gradient if ctx.fused else _gradient
        with torch.autocast(hidden.device.type, enabled=False):
            low = hidden.to(ctx.dtype)
            for tile in _tiles(low, weight, bias, targets):
                steep = gradient(tile, ctx.transform, log_sum, grad)
                if dbias is not None:
                    dbias[tile.words] = steep.sum(0)
                narrow = steep.to(ctx.dtype)
                dhidden += narrow @ tile.table
                dweight[tile.words] = narrow.t() @ low
        return dhidden.to(hidden.dtype), dweight, dbias, None, None, None, None, None


def _gradient(
    tile: _Tile, transform: LogitTransform, log_sum: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """Return the gradient with respect to a tile's products, (S, words) float32: onehot - p, times ``grad`` (S,)."""
    logits = tile.logits(transform)
    slope = transform.slope(logits)
    steep = logits.sub_(log_sum).exp_().mul_(-grad[:, None])
    steep.scatter_add_(1, tile.place, torch.where(tile.inside, grad, 0.0)[:, None])
    return steep if slope is None else steep.mul_(slope)


def _fused_gradient(
    tile: _Tile, transform: LogitTransform, log_sum: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    """Return what :func:`_gradient` does, in the compute dtype and the products' own memory."""
    from dpotrain.engine.kernels.triton_head import tile_gradient

    first, scale, softcap = tile.words.start, transform.scale, transform.softcap
    tile_gradient(tile.raw, tile.bias, tile.targets, first, scale, softcap, log_sum, grad.contiguous())
    return tile.raw


def log_probs_of(logits: torch.Tensor, targets: torch.Tensor, statistics: Sequence[str]) -> torch.Tensor:
    """Return what :func:`token_log_probs` does, of whole rows of logits (S, vocabulary) float32."""
    log_probs = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
    return torch.cat([log_probs[:, None], of_logits(logits, statistics)], 1) if statistics else log_probs


def _any_head(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    transform: LogitTransform,
    statistics: Sequence[str],
) -> torch.Tensor:
    def chunk(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return log_probs_of(transform(head(rows).float()), wanted, statistics)

    vocabulary = int(getattr(head, "out_features", 1 << 17))
    parts = []
    chunk_rows = max(16, ROW_LOGITS.get(hidden.device.type, ROW_LOGITS["cpu"]) // vocabulary)
    for rows in _slices(len(hidden), chunk_rows):
        if torch.is_grad_enabled():  # randomness, of a LoRA dropout, is restored by checkpoint()
            parts.append(checkpoint(chunk, hidden[rows], targets[rows], use_reentrant=False))
        else:
            parts.append(chunk(hidden[rows], targets[rows]))
    return torch.cat(parts)
