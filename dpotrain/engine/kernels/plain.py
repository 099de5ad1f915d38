"""Norm, gated product and rotary embedding in torch's operations: the CPU's, and what other kernels are compared with.

Autograd saves nearly every intermediate of them. Here the norm saves its input and one number a row, the product its
two factors, the rotary embedding nothing of its own; the rest is recomputed. Forward passes round where the usual
definitions in transformers round. On a CPU long rows are taken in blocks that stay in the cache: temporary tensors as
large as the row would be new memory each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

#: Bytes of a block for each thread. From about twice that on, every temporary tensor is memory that the allocator
#: takes from the system and gives back, which costs several times what is computed; smaller blocks are overhead.
BLOCK = 1 << 19


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return ``weight * hidden / rms(hidden)`` (arXiv:1910.07467, equation 4), the root in float32.

    ``hidden`` and the result are (..., size), ``weight`` is (size,); ``epsilon`` is added to the mean square. The
    result has the dtype to which those of ``weight`` and ``hidden`` promote.
    """
    output: torch.Tensor = _RmsNorm.apply(hidden, weight, epsilon)  # type: ignore[no-untyped-call]
    return output


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate) * up`` (arXiv:2002.05202, equation 6) of two tensors of one shape and dtype."""
    output: torch.Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


def rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys by their positions (arXiv:2104.09864, equation 34, the pairs half a head apart).

    ``query`` is (batch, heads, length, size), ``key`` (batch, groups, length, size); ``cos`` and ``sin`` are
    (batch or 1, length, size), without gradients. Computed in the dtype to which all promote, and returned in
    :func:`rotated_dtype`. Memory lies by token, then head.
    """
    rotated: tuple[torch.Tensor, torch.Tensor] = _Rotary.apply(query, key, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


def rotated_dtype(query: torch.Tensor, cos: torch.Tensor) -> torch.dtype:
    """Return the dtype in which attention takes queries: autocast's, or that to which ``query`` and ``cos`` promote."""
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(query.dtype, cos.dtype)


def _blocks(rows: int, size: int, device: torch.device) -> Iterator[slice]:
    """Cut rows of ``size`` bytes into blocks; on other devices than a CPU there is one."""
    step = max(1, BLOCK * torch.get_num_threads() // max(1, size) if device.type == "cpu" else rows)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        output = torch.empty(
            rows.shape, dtype=torch.promote_types(hidden.dtype, weight.dtype), device=rows.device
        )
        scale = torch.empty(len(rows), 1, device=rows.device)
        for block in _blocks(len(rows), 4 * rows.shape[1], rows.device):
            wide = rows[block].float()
            root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
            # Not in place where `wide` is the input itself.
            normal = wide * root if hidden.dtype == torch.float32 else wide.mul_(root)
            if output.dtype != hidden.dtype:  # products of two dtypes take many times as long
                normal = normal.to(hidden.dtype).to(output.dtype)
            output[block].copy_(normal).mul_(weight)
            scale[block] = root
        ctx.save_for_backward(hidden, weight, scale)
        return output.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        size = hidden.shape[-1]
        rows, slopes, wide_weight = hidden.reshape(-1, size), grad.reshape(-1, size), weight.float()
        dhidden = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        dweight = torch.zeros_like(wide_weight) if ctx.needs_input_grad[1] else None
        for block in _blocks(len(rows), 4 * rows.shape[1], rows.device):
            root = scale[block]
            normal = rows[block].float() * root
            steep = slopes[block].float()
            if dweight is not None:
                dweight += (steep * normal).sum(0)
            # With n the normalized row and g the gradient times the weight: (g - n * mean(n * g)) / rms.
            steep = steep * wide_weight if grad.dtype == torch.float32 else steep.mul_(wide_weight)
            along = (steep * normal).mean(-1, keepdim=True)
            dhidden[block] = steep.addcmul_(normal, along, value=-1).mul_(root)
        return dhidden.view(hidden.shape), None if dweight is None else dweight.to(weight.dtype), None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        saved = ctx.saved_tensors
        size = grad.shape[-1]
        gate, up, slopes = (tensor.reshape(-1, size) for tensor in (*saved, grad))
        dgate, dup = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
        for block in _blocks(len(gate), 4 * size, gate.device):
            row, slope = gate[block].float(), slopes[block].float()
            share = torch.sigmoid(row)  # the one exponential of both
            value = row * share
            dup[block] = value * slope
            # With s the sigmoid of x, the derivative is x s + s (1 - x s).
            steep = value.addcmul_(share, 1 - value)
            dgate[block] = steep.mul_(slope).mul_(up[block].float())
        return dgate.view(grad.shape), dup.view(grad.shape)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, cos, sin = inputs
        ctx.save_for_backward(cos, sin)
        ctx.dtypes = query.dtype, key.dtype
        dtype = rotated_dtype(query, cos)
        return _rotate(query, cos, sin, dtype), _rotate(key, cos, sin, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return (
            *(
                _rotate(grad, cos, sin, dtype, back=True)
                for grad, dtype in zip(grads, ctx.dtypes, strict=True)
            ),
            None,
            None,
        )


def _rotate(
    rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype, *, back: bool = False
) -> torch.Tensor:
    """Rotate ``rows`` (batch, heads, length, size), or by the transposed matrix; return them in ``dtype``."""
    batch, heads, length, size = rows.shape
    half, inner = size // 2, torch.promote_types(rows.dtype, cos.dtype)
    by_token = rows.transpose(1, 2)
    output = torch.empty(by_token.shape, dtype=dtype, device=rows.device)
    for block in _blocks(length, batch * heads * size * inner.itemsize, rows.device):
        wide = by_token[:, block].to(inner)
        near, far = wide[..., :half], wide[..., half:]
        cosines, sines = cos[:, block, None].to(inner), sin[:, block, None].to(inner)
        rotated = wide * cosines
        if back:
            rotated[..., :half].add_(far * sines[..., half:])
            rotated[..., half:].sub_(near * sines[..., :half])
        else:
            rotated[..., :half].sub_(far * sines[..., :half])
            rotated[..., half:].add_(near * sines[..., half:])
        output[:, block] = rotated
    return output.transpose(1, 2)
