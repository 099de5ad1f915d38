"""The functions of :mod:`.plain` as Triton kernels: every tensor is read once and written once a pass.

They compute in float32. Forward passes round where the plain code rounds, so that both give the same numbers but for
the order of sums and the last bit of exponentials and roots; backward passes round less often. What a kernel does not
cover goes to the plain code.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from dpotrain.engine.kernels import plain

#: Widest row that a program holds in registers.
WIDEST = 1 << 15
#: Numbers that a program of the norm takes at a time at least, in several rows where these are narrow.
NUMBERS = 1 << 11
#: Programs of the norm's backward pass where the weight is trained: each sums a gradient of its own for some rows.
PROGRAMS = 256
#: Numbers that a program of the product takes.
PRODUCTS = 1 << 11
#: Heads that a program of the rotary embedding takes at a time.
HEADS = 8


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Do what :func:`.plain.rms_norm` does."""
    if not 0 < hidden.shape[-1] <= WIDEST or hidden.numel() == 0:
        return plain.rms_norm(hidden, weight, epsilon)
    output: torch.Tensor = _RmsNorm.apply(hidden, weight, epsilon)  # type: ignore[no-untyped-call]
    return output


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Do what :func:`.plain.swiglu` does."""
    if gate.shape != up.shape or gate.dtype != up.dtype or gate.numel() == 0:
        return plain.swiglu(gate, up)
    output: torch.Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


def rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what :func:`.plain.rotary` does."""
    if query.numel() == 0 or key.numel() == 0:
        return plain.rotary(query, key, cos, sin)
    rotated: tuple[torch.Tensor, torch.Tensor] = _Rotary.apply(query, key, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        size = hidden.shape[-1]
        rows = hidden.reshape(-1, size).contiguous()
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
        output = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        scale = torch.empty(len(rows), 1, dtype=torch.float32, device=rows.device)
        block, together, warps = _shape(size)
        _norm_forward[(triton.cdiv(len(rows), together),)](
            rows, weight.contiguous(), output, scale, len(rows), size, epsilon,
            ROWS=together, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        ctx.save_for_backward(hidden, weight, scale)
        return output.view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        size = hidden.shape[-1]
        rows, slopes = (tensor.reshape(-1, size).contiguous() for tensor in (hidden, grad))
        dhidden = torch.empty_like(rows)
        block, together, warps = _shape(size)
        tiles = triton.cdiv(len(rows), together)
        trained = ctx.needs_input_grad[1]
        programs = min(tiles, PROGRAMS) if trained else tiles
        # Where it isn't trained, nothing is written here.
        parts = torch.empty(programs if trained else 1, size, dtype=torch.float32, device=rows.device)
        _norm_backward[(programs,)](
            slopes, rows, weight.contiguous(), scale, dhidden, parts, len(rows), size,
            triton.cdiv(tiles, programs), TRAINED=trained, ROWS=together, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        return dhidden.view(hidden.shape), parts.sum(0).to(weight.dtype) if trained else None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        gate, up = gate.contiguous(), up.contiguous()
        output = torch.empty_like(gate)
        count = gate.numel()
        _product_forward[(triton.cdiv(count, PRODUCTS),)](gate, up, output, count, BLOCK=PRODUCTS)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = (tensor.contiguous() for tensor in ctx.saved_tensors)
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        count = gate.numel()
        _product_backward[(triton.cdiv(count, PRODUCTS),)](
            grad.contiguous(), gate, up, dgate, dup, count, BLOCK=PRODUCTS
        )
        return dgate, dup


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, cos, sin = inputs
        ctx.save_for_backward(cos, sin)
        ctx.dtypes = query.dtype, key.dtype
        dtype = plain.rotated_dtype(query, cos)
        return _rotate(query, key, cos, sin, (dtype, dtype), back=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        query, key = grads
        return *_rotate(query, key, cos, sin, ctx.dtypes, back=True), None, None


def _rotate(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    dtypes: tuple[torch.dtype, torch.dtype],
    *,
    back: bool,
) -> tuple[torch.Tensor, ...]:
    """Rotate both, (batch, heads, length, size), in one kernel; they are returned with the memory by token."""
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    query, key = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key))
    cos, sin = cos.contiguous(), sin.contiguous()
    outputs = [
        torch.empty(batch, length, count, size, dtype=dtype, device=query.device)
        for count, dtype in zip((heads, groups), dtypes, strict=True)
    ]
    narrow = torch.promote_types(query.dtype, cos.dtype) == torch.bfloat16
    _rotate_rows[(batch * length,)](
        query, key, cos, sin, *outputs, length, 0 if len(cos) == 1 else length * size,
        *query.stride()[:3], *key.stride()[:3],
        heads, groups, size // 2, BACK=back, NARROW=narrow,
        HEADS=min(HEADS, triton.next_power_of_2(heads)), BLOCK=triton.next_power_of_2(size // 2),
    )  # fmt: skip
    return tuple(output.transpose(1, 2) for output in outputs)


def _shape(size: int) -> tuple[int, int, int]:
    """Return for rows of ``size`` numbers the block that holds one, rows a program takes together, and its warps."""
    block = triton.next_power_of_2(size)
    together = max(1, NUMBERS // block)
    return block, together, min(16, max(4, block // 1024))


@triton.jit
def _norm_forward(
    hidden, weight, output, scale, count, size, epsilon, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < count)[:, None] & (column < size)[None, :]
    place = row[:, None] * size + column[None, :]
    wide = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 1) / size + epsilon)
    tl.store(scale + row, root, mask=row < count)
    normal = (wide * root[:, None]).to(hidden.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + column, mask=column < size, other=0.0).to(tl.float32)
    tl.store(output + place, (normal * factor[None, :]).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(
    grad, hidden, weight, scale, dhidden, parts, count, size, tiles,
    TRAINED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    factor = tl.load(weight + column, mask=column < size, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for tile in range(0, tiles):
        row = (program * tiles + tile) * ROWS + tl.arange(0, ROWS)
        inside = (row < count)[:, None] & (column < size)[None, :]
        place = row[:, None] * size + column[None, :]
        root = tl.load(scale + row, mask=row < count, other=0.0)
        normal = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32) * root[:, None]
        slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        if TRAINED:
            total += tl.sum(slope * normal, 0)
        steep = slope * factor[None, :]
        along = tl.sum(steep * normal, 1) / size
        result = (steep - normal * along[:, None]) * root[:, None]
        tl.store(dhidden + place, result.to(dhidden.dtype.element_ty), mask=inside)
    if TRAINED:
        tl.store(parts + program * size + column, total, mask=column < size)


@triton.jit
def _product_forward(gate, up, output, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    row = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    value = (row / (1.0 + tl.exp(-row))).to(output.dtype.element_ty).to(tl.float32)
    tl.store(output + place, (value * factor).to(output.dtype.element_ty), mask=inside)


@triton.jit
def _product_backward(grad, gate, up, dgate, dup, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    slope = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    row = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-row))
    value = row * share
    tl.store(dup + place, (value * slope).to(dup.dtype.element_ty), mask=inside)
    # With s the sigmoid of x, the derivative is x s + s (1 - x s).
    steep = value + share * (1.0 - value)
    tl.store(dgate + place, (steep * slope * factor).to(dgate.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_rows(
    query, key, cos, sin, rotated_query, rotated_key, length, table_stride,
    query_batch, query_head, query_token, key_batch, key_head, key_token,
    heads, groups, half,
    BACK: tl.constexpr, NARROW: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    batch, place = token // length, token % length
    column = tl.arange(0, BLOCK)
    near = batch * table_stride + place * 2 * half + column
    inside = column < half
    near_cos = tl.load(cos + near, mask=inside, other=0.0).to(tl.float32)
    far_cos = tl.load(cos + near + half, mask=inside, other=0.0).to(tl.float32)
    near_sin = tl.load(sin + near, mask=inside, other=0.0).to(tl.float32)
    far_sin = tl.load(sin + near + half, mask=inside, other=0.0).to(tl.float32)
    if BACK:  # by the transposed matrix
        near_sin, far_sin = -far_sin, -near_sin
    _rotate_heads(
        query + batch * query_batch + place * query_token, query_head, rotated_query + token * heads * 2 * half,
        heads, near_cos, far_cos, near_sin, far_sin, half, NARROW, HEADS, BLOCK,
    )  # fmt: skip
    _rotate_heads(
        key + batch * key_batch + place * key_token, key_head, rotated_key + token * groups * 2 * half,
        groups, near_cos, far_cos, near_sin, far_sin, half, NARROW, HEADS, BLOCK,
    )  # fmt: skip


@triton.jit
def _rotate_heads(
    rows, stride, output, heads, near_cos, far_cos, near_sin, far_sin, half,
    NARROW: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    for first in range(0, heads, HEADS):
        head = first + tl.arange(0, HEADS)
        inside = (head < heads)[:, None] & (column < half)[None, :]
        place = head.to(tl.int64)[:, None] * stride + column[None, :]
        near = tl.load(rows + place, mask=inside, other=0.0).to(tl.float32)
        far = tl.load(rows + place + half, mask=inside, other=0.0).to(tl.float32)
        straight, crossed = near * near_cos[None, :], far * near_sin[None, :]
        other_straight, other_crossed = far * far_cos[None, :], near * far_sin[None, :]
        if NARROW:  # products of bfloat16 factors are bfloat16
            straight, crossed = (
                straight.to(tl.bfloat16).to(tl.float32),
                crossed.to(tl.bfloat16).to(tl.float32),
            )
            other_straight = other_straight.to(tl.bfloat16).to(tl.float32)
            other_crossed = other_crossed.to(tl.bfloat16).to(tl.float32)
        place = head[:, None] * 2 * half + column[None, :]
        tl.store(output + place, (straight - crossed).to(output.dtype.element_ty), mask=inside)
        tl.store(
            output + place + half, (other_straight + other_crossed).to(output.dtype.element_ty), mask=inside
        )
