"""Log-probabilities of scored tokens without the full logits.

Hidden states of the predicting tokens reach the language-model head in chunks of rows; the logits of a
chunk are reduced to one number a row and dropped. Matrix products run in the compute dtype, everything
after them in float32. The full ``tokens x vocabulary`` tensor never exists, forward or backward.

Three ways, by what the head is:
- a frozen plain linear layer: the gradient with respect to the hidden states is formed in the forward pass,
  while a chunk's probabilities are at hand, and kept instead of any logits;
- a trained plain linear layer (also one tied to the embeddings): the backward pass computes each chunk again
  and sums the weight's gradient in float32;
- anything else (LoRA on the head, 4-bit weights, a module to save): the module itself is called, chunk by
chunk,
  under activation checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

#: float32 logits of one chunk, by device: 64 MB are small beside any model and enough for a CPU's full speed; a GPU
#: reads the whole head for every chunk and wants more rows for it.
CHUNK_NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 26}


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does between its head and its logits: ``softcap * tanh(scale * x / softcap)``."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Apply to float32 head outputs."""
        scaled = raw if self.scale == 1.0 else raw * self.scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)

    def chain(self, grad: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Turn a gradient with respect to the logits into one with respect to the head's output, in place."""
        if self.softcap is not None:
            grad.mul_(1 - (logits / self.softcap) ** 2)
        return grad if self.scale == 1.0 else grad.mul_(self.scale)


def token_log_probs(
    hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor, transform: LogitTransform
) -> torch.Tensor:
    """Return log p(target | hidden) of every row.

    Args:
        hidden: (S, hidden size), last hidden states of the predicting tokens.
        head: maps hidden states to the vocabulary.
        targets: (S,) int64.
        transform: scale and cap between the head's output and the logits.

    Returns:
        (S,) float32.
    """
    if type(head) is nn.Linear and not _hooked(head) and head.weight.dtype.is_floating_point:
        dtype = _compute_dtype(hidden)
        trained = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
        function = _TrainedHead if trained and torch.is_grad_enabled() else _FrozenHead
        result: torch.Tensor = function.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, targets, transform, dtype
        )
        return result
    return _any_head(hidden, head, targets, transform)


def completion_sums(log_probs: torch.Tensor, scored_tokens: torch.Tensor) -> torch.Tensor:
    """Sum token log-probs, (S,) float32, over completions of ``scored_tokens`` (P, 2) tokens: (P, 2) float32."""
    lengths = scored_tokens.reshape(-1)
    # The lengths are ours and right; having them checked would wait for the device.
    return torch.segment_reduce(log_probs, "sum", lengths=lengths, unsafe=True).view(-1, 2)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _chunks(hidden: torch.Tensor, vocabulary: int) -> list[slice]:
    rows = len(hidden)
    size = max(16, CHUNK_NUMBERS.get(hidden.device.type, CHUNK_NUMBERS["cpu"]) // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transform: LogitTransform
) -> torch.Tensor:
    """Return float32 logits of a chunk after a matrix product in the operands' dtype."""
    raw = F.linear(hidden, weight).float()
    if bias is not None:
        raw += bias
    return transform(raw)


def _pick(logits: torch.Tensor, targets: torch.Tensor, log_sum: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, targets[:, None])[:, 0] - log_sum


def _minus_probabilities(
    logits: torch.Tensor, log_sum: torch.Tensor, targets: torch.Tensor, transform: LogitTransform
) -> torch.Tensor:
    """Gradient of log p(target) with respect to the head's output: onehot - p, chained through the transform."""
    grad = (logits - log_sum[:, None]).exp_().neg_()
    grad[torch.arange(len(targets), device=targets.device), targets] += 1.0
    return transform.chain(grad, logits)


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
    ) -> torch.Tensor:
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        slopes = torch.empty_like(hidden) if wanted else None
        with torch.autocast(hidden.device.type, enabled=False):
            low, table = hidden.to(dtype), weight.to(dtype)
            for rows in _chunks(hidden, len(weight)):
                logits = _logits(low[rows], table, bias, transform)
                log_sum = logits.logsumexp(1)
                result[rows] = _pick(logits, targets[rows], log_sum)
                if slopes is not None:
                    grad = _minus_probabilities(logits, log_sum, targets[rows], transform)
                    slopes[rows] = (grad.to(dtype) @ table).to(hidden.dtype)
        ctx.save_for_backward(slopes)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None].to(slopes.dtype), None, None, None, None, None


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
    ) -> torch.Tensor:
        result = hidden.new_empty(len(hidden), dtype=torch.float32)
        log_sums = torch.empty_like(result)
        with torch.autocast(hidden.device.type, enabled=False):
            low, table = hidden.to(dtype), weight.to(dtype)
            for rows in _chunks(hidden, len(weight)):
                logits = _logits(low[rows], table, bias, transform)
                log_sums[rows] = logits.logsumexp(1)
                result[rows] = _pick(logits, targets[rows], log_sums[rows])
        ctx.save_for_backward(hidden, weight, bias, targets, log_sums)
        ctx.transform, ctx.dtype = transform, dtype
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, log_sums = ctx.saved_tensors
        dtype = ctx.dtype
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        dbias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        with torch.autocast(hidden.device.type, enabled=False):
            low, table = hidden.to(dtype), weight.to(dtype)
            for rows in _chunks(hidden, len(weight)):
                logits = _logits(low[rows], table, bias, ctx.transform)
                slope = _minus_probabilities(logits, log_sums[rows], targets[rows], ctx.transform)
                slope = slope.mul_(grad[rows, None])
                if dbias is not None:
                    dbias += slope.sum(0)
                slope = slope.to(dtype)
                dhidden[rows] = (slope @ table).to(hidden.dtype)
                if dtype == torch.float32:
                    dweight.addmm_(slope.t(), low[rows])
                else:
                    dweight += slope.t() @ low[rows]
        return (
            dhidden,
            dweight.to(weight.dtype),
            None if dbias is None else dbias.to(bias.dtype),
            None,
            None,
            None,
        )


def _any_head(
    hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor, transform: LogitTransform
) -> torch.Tensor:
    def chunk(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = transform(head(rows).float())
        return _pick(logits, wanted, logits.logsumexp(1))

    vocabulary = int(getattr(head, "out_features", 1 << 17))
    parts = []
    for rows in _chunks(hidden, vocabulary):
        if torch.is_grad_enabled():
            # The recomputation sees the same rows and no randomness of its own but a LoRA dropout's,
            # which checkpoint() restores.
            part = checkpoint(chunk, hidden[rows], targets[rows], use_reentrant=False)
        else:
            part = chunk(hidden[rows], targets[rows])
        parts.append(part)
    return torch.cat(parts)
