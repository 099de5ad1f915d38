"""Triton's norm, gated product and rotary embedding against float64 and the plain code, values and gradients."""

import pytest
import torch

from dpotrain.engine.kernels import plain
from tests.engine.kernels.device import DEVICE, import_kernels

kernels = import_kernels("triton_layers")
pytestmark = [pytest.mark.cuda] if DEVICE == "cuda" else []

#: Largest distance from float64, relative to the largest number. The interpreter cuts bfloat16 off instead of rounding.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
#: Rows and numbers of each: one row, narrow and wide ones, none of them a multiple of a block.
SHAPES = [(1, 5000), (37, 100), *(pytest.param(each, marks=pytest.mark.soak) for each in ((1, 1), (300, 8)))]


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).to(DEVICE)


def compare(function, definition, inputs, grads):
    """Compare values and gradients of a function with a definition in float64."""
    inputs = [each.detach().requires_grad_(each.requires_grad) for each in inputs]
    exact = [each.detach().double().requires_grad_(each.requires_grad) for each in inputs]
    got, expected = function(*inputs), definition(*exact)
    got, expected = (each if isinstance(each, tuple) else (each,) for each in (got, expected))
    grads = [grad.to(each.dtype) for grad, each in zip(grads, got, strict=True)]
    wanted = [number for number, each in enumerate(inputs) if each.requires_grad]
    mine = torch.autograd.grad(got, [inputs[number] for number in wanted], grads)
    theirs = torch.autograd.grad(expected, [exact[number] for number in wanted], [g.double() for g in grads])
    assert [each.dtype for each in mine] == [inputs[number].dtype for number in wanted]
    least = min((each.dtype for each in inputs), key=lambda dtype: torch.finfo(dtype).bits)
    for one, other in zip((*got, *mine), (*expected, *theirs), strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).abs().max() <= CLOSE[least] * other.abs().max().clamp(min=1e-3)
    return got


def norm(hidden, weight):
    return weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-3)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dtypes", [(a, b) for a in CLOSE for b in (a, torch.float32)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_norm_is_its_formula(shape, dtypes, trained):
    torch.manual_seed(0)
    hidden = randn(2, *shape, dtype=dtypes[0]).requires_grad_()
    weight = randn(shape[1], dtype=dtypes[1]).requires_grad_(trained)
    (got,) = compare(lambda *x: kernels.rms_norm(*x, 1e-3), norm, (hidden, weight), [randn(*hidden.shape)])
    assert got.dtype == plain.rms_norm(hidden, weight, 1e-3).dtype


def test_rows_that_do_not_lie_together():
    torch.manual_seed(0)
    hidden = randn(4, 9, 24).transpose(0, 1).requires_grad_()
    compare(lambda *x: kernels.rms_norm(*x, 1e-3), norm, (hidden, randn(24)), [randn(9, 4, 24)])
    gate, up = (randn(4, 9, 24).transpose(0, 1).requires_grad_() for _ in range(2))
    compare(kernels.swiglu, product, (gate, up), [randn(9, 4, 24)])


def test_many_rows_share_the_gradient_of_a_weight(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 3)
    torch.manual_seed(0)
    hidden, weight = randn(71, 600).requires_grad_(), randn(600).requires_grad_()
    compare(lambda *x: kernels.rms_norm(*x, 1e-3), norm, (hidden, weight), [randn(71, 600)])


def product(gate, up):
    return gate * torch.sigmoid(gate) * up


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_its_formula(shape, dtype):
    torch.manual_seed(0)
    gate, up = (randn(*shape, dtype=dtype).requires_grad_() for _ in range(2))
    compare(kernels.swiglu, product, (gate, up), [randn(*shape)])


def test_gates_of_any_size_leave_no_hole():
    gate = torch.tensor([-200.0, -90.0, 0.0, 90.0, 200.0], device=DEVICE, requires_grad=True)
    compare(kernels.swiglu, product, (gate, randn(5)), [randn(5)])


def rotated(query, key, cos, sin):
    cos, sin = cos[:, None], sin[:, None]
    turned = [torch.cat((-rows.chunk(2, -1)[1], rows.chunk(2, -1)[0]), -1) for rows in (query, key)]
    return tuple(rows * cos + other * sin for rows, other in zip((query, key), turned, strict=True))


@pytest.mark.parametrize(
    ("heads", "size", "by_token"),
    [
        ((9, 3), 20, True),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in (((1, 1), 2, True), ((9, 3), 20, False))),
    ],
)
@pytest.mark.parametrize("dtypes", [*((each, each) for each in CLOSE), (torch.bfloat16, torch.float32)])
def test_the_rotary_embedding_is_its_formula(dtypes, heads, size, by_token):
    """The tables' halves differ here, as no model's do."""
    torch.manual_seed(0)
    rows = []
    for count in heads:
        each = (
            randn(2, 3, count, size, dtype=dtypes[0])
            if by_token
            else randn(2, count, 3, size, dtype=dtypes[0])
        )
        rows.append((each.transpose(1, 2) if by_token else each).requires_grad_())
    grads = [randn(*each.shape) for each in rows]
    for batch in (1, 2):
        cos, sin = randn(2, batch, 3, size, dtype=dtypes[1])
        for function in (kernels.rotary, plain.rotary):
            got = compare(function, rotated, (*rows, cos, sin), grads)
            assert [each.dtype for each in got] == [torch.promote_types(*dtypes)] * 2


@pytest.mark.parametrize("function", ["rotary of kernels", "plain rotary"])
def test_autocast_decides_the_dtype_that_attention_gets(function):
    torch.manual_seed(0)
    rotary = plain.rotary if function == "plain rotary" else kernels.rotary
    query, key = (randn(1, 3, 5, 8).requires_grad_() for _ in range(2))
    cos, sin = randn(2, 1, 5, 8)
    with torch.autocast(DEVICE, torch.bfloat16):
        got = rotary(query, key, cos, sin)
    assert [each.dtype for each in got] == [torch.bfloat16] * 2
    for mine, theirs in zip(got, rotary(query, key, cos, sin), strict=True):
        torch.testing.assert_close(mine.float(), theirs, atol=0.02, rtol=0.02)
    assert [each.dtype for each in torch.autograd.grad(got, (query, key), got)] == [torch.float32] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_are_the_plain_code(dtype):
    torch.manual_seed(0)
    hidden, gate, up = (randn(13, 96, dtype=dtype) for _ in range(3))
    weight = randn(96, dtype=dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 1e-3}
    torch.testing.assert_close(
        kernels.rms_norm(hidden, weight, 1e-5), plain.rms_norm(hidden, weight, 1e-5), **close
    )
    torch.testing.assert_close(kernels.swiglu(gate, up), plain.swiglu(gate, up), **close)
    rows, tables = [randn(1, 4, 13, 16, dtype=dtype) for _ in range(2)], randn(2, 1, 13, 16, dtype=dtype)
    close["atol"] = 0.05 if dtype == torch.bfloat16 else 1e-5  # of a sum whose terms are larger
    for mine, theirs in zip(kernels.rotary(*rows, *tables), plain.rotary(*rows, *tables), strict=True):
        torch.testing.assert_close(mine, theirs, **close)
