"""Norm, gated product and rotary embedding in torch's operations: the CPU's, and what other kernels are compared with.

Autograd saves nearly every intermediate of them. Here the norm saves its input and one number a row, the product its
two factors, the rotary embedding nothing of its own; the rest is recomputed. Forward passes round where the usual
definitions in transformers round. Passes over rows are few and in place where they can be: each costs a CPU as much as
its arithmetic, and products of two dtypes several times that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


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


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(hidden, weight, scale)
        normal = _scaled(wide, scale, hidden)
        output = normal.to(hidden.dtype).to(torch.promote_types(hidden.dtype, weight.dtype))
        return output.mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        normal, steep = _scaled(hidden.float(), scale, hidden), grad.float()
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (steep * normal).flatten(0, -2).sum(0).to(weight.dtype)
        # With n the normalized row and g the gradient times the weight: (g - n * mean(n * g)) / rms.
        steep = _scaled(steep, weight.float(), grad)
        along = (steep * normal).mean(-1, keepdim=True)
        return steep.addcmul_(normal, along, value=-1).mul_(scale).to(hidden.dtype), dweight, None


def _scaled(wide: torch.Tensor, factor: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Return ``wide * factor``, in place unless the conversion of ``source`` to ``wide`` gave ``source`` itself."""
    return wide * factor if wide is source else wide.mul_(factor)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        dup = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), dup


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
    half = rows.shape[-1] // 2
    near_sin, far_sin = sin[..., :half], sin[..., half:]
    signed = torch.cat((far_sin, -near_sin) if back else (-near_sin, far_sin), -1)
    by_token = rows.transpose(1, 2)
    wide = by_token.to(torch.promote_types(rows.dtype, cos.dtype))
    crossed = torch.cat((wide[..., half:], wide[..., :half]), -1).mul_(signed[:, :, None])
    return _scaled(wide, cos[:, :, None], by_token).add_(crossed).to(dtype).transpose(1, 2)
