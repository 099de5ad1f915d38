"""AdamW whose moments are kept in a dtype of choice."""

import io

import pytest
import torch

from dpotrain.plugin.api import Trained
from dpotrain_plugins.optimizers import AdamW, state_dtype
from dpotrain_plugins.optimizers.state_dtype import StateDtypeAdamW, _Noise
from tests.plugins.test_optimizers import drawn_steps

SETTINGS = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"matrix": (40, 30), "vector": (50,), "transposed": (7, 6)}
    made = {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}
    made["transposed"] = made["transposed"].t()
    return {name: torch.nn.Parameter(weight) for name, weight in made.items()}


def built(trained: dict[str, torch.nn.Parameter], dtype: str, **options) -> torch.optim.Optimizer:
    return AdamW(AdamW.Options(state_dtype=dtype, **(SETTINGS | options))).build(trained)


def test_moments_that_weights_have_anyway_are_left_to_torch():
    for dtype in ("auto", "float32"):
        assert type(built(weights(), dtype)) is torch.optim.AdamW
    assert type(built(weights(torch.bfloat16), "auto")) is torch.optim.AdamW
    assert type(built(weights(torch.bfloat16), "float32")) is StateDtypeAdamW


@pytest.mark.parametrize("numbers", [1 << 18, 64])
def test_float32_moments_of_bfloat16_weights_are_those_of_float32_weights_that_are_rounded(
    monkeypatch, numbers
):
    """To the bit, however the weights are cut into batches."""
    monkeypatch.setitem(state_dtype.BATCH_NUMBERS, "cpu", numbers)
    ours, wide = weights(torch.bfloat16), weights(torch.bfloat16)
    for weight in wide.values():
        weight.data = weight.data.float().contiguous()
    optimizer, other = built(ours, "float32"), built(wide, "auto")
    for number in range(4):
        drawn_steps(optimizer, ours, range(number, number + 1))
        for name, weight in wide.items():
            weight.grad = ours[name].grad.float().contiguous()
        other.step()
        for name, weight in wide.items():
            weight.data = weight.data.bfloat16().float()
            assert weight.equal(ours[name].float())
            for moment in ("exp_avg", "exp_avg_sq"):
                assert optimizer.state[ours[name]][moment].equal(other.state[weight][moment])


def test_stochastic_rounding_takes_one_of_the_two_numbers_around_and_is_exact_on_average():
    values = torch.tensor([1.001, -3.3, 1e-30, -7e20, 0.0, 1.0, 1.9999])
    below = (values.view(torch.int32) & -65536).view(torch.float32)
    above = ((values.view(torch.int32) & -65536) + 65536).view(torch.float32)
    many = values.repeat_interleave(20_000)
    _Noise(1, torch.device("cpu")).add(many, 1)
    rounded = many.view(len(values), -1)
    assert ((rounded == below[:, None]) | (rounded == above[:, None])).all()
    assert rounded.bfloat16().float().equal(rounded)
    # The standard deviation of the mean is at most half the distance over the root of the count.
    bound = 5 * (above - below).abs() / 2 / 20_000**0.5
    assert ((rounded.double().mean(1) - values).abs() <= bound).all()
    assert (rounded[4:6] == values[4:6, None]).all(), "numbers of bfloat16 stay"


def second_moment(dtype: str, weight_dtype: torch.dtype) -> torch.Tensor:
    """Return the second moments of 4,096 numbers, (4096,), after large gradients and then small ones."""
    trained = {"vector": torch.nn.Parameter(torch.zeros(4096, dtype=weight_dtype))}
    optimizer = built(trained, dtype, betas=(0.9, 0.999))
    for step in range(1500):
        trained["vector"].grad = torch.full_like(trained["vector"], 1.0 if step < 500 else 0.1)
        optimizer.step()
    return optimizer.state[trained["vector"]]["exp_avg_sq"].float()


def test_a_second_moment_in_bfloat16_follows_the_gradients_where_rounding_to_the_nearest_does_not(
    monkeypatch,
):
    monkeypatch.setitem(state_dtype.BATCH_NUMBERS, "cpu", 4096)  # as much noise is drawn
    exact = second_moment("float32", torch.float32)
    stochastic, nearest = second_moment("bfloat16", torch.float32), second_moment("auto", torch.bfloat16)
    assert abs(stochastic.mean() / exact.mean() - 1) < 0.01
    assert abs(nearest.mean() / exact.mean() - 1) > 0.2


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_optimizer_continues_to_the_bit(dtype, weight_dtype):
    trained = weights(weight_dtype)
    optimizer = built(trained, dtype)
    drawn_steps(optimizer, trained, range(3))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    other = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in trained.items()}
    resumed = built(other, dtype)
    torch.manual_seed(1)  # the global random state plays no part: that of another process may differ
    resumed.load_state_dict(torch.load(saved))
    drawn_steps(optimizer, trained, range(3, 6))
    drawn_steps(resumed, other, range(3, 6))
    for name, weight in trained.items():
        assert weight.equal(other[name])
        for key, value in optimizer.state[weight].items():
            assert resumed.state[other[name]][key].equal(value)
            assert resumed.state[other[name]][key].dtype == value.dtype
            assert key == "step" or value.dtype == getattr(torch, dtype)


def test_a_weight_without_a_gradient_stays():
    trained, before = weights(), weights()
    optimizer = built(trained, "bfloat16")
    trained["vector"].grad = torch.ones(50)
    optimizer.step()
    assert trained["matrix"].equal(before["matrix"])
    assert not trained["vector"].equal(before["vector"])
    assert optimizer.state[trained["matrix"]]["step"] == 0


@pytest.mark.parametrize(("dtype", "each"), [("auto", 8 + 4), ("float32", 8 + 8), ("bfloat16", 4 + 4)])
def test_the_state_is_counted_in_its_dtype(dtype, each):
    """Of ten float32 weights, and as many in bfloat16."""
    sizes = [Trained(10, 4), Trained(10, 2)]
    assert AdamW(AdamW.Options(state_dtype=dtype, **SETTINGS)).state_bytes(sizes) == 10 * each + 2 * 4


@pytest.mark.cuda
def test_a_gpu_is_not_waited_for_and_moments_follow_those_in_float32():
    exact, ours, again = (
        {name: torch.nn.Parameter(weight.detach().cuda()) for name, weight in weights().items()}
        for _ in range(3)
    )
    other, optimizer, repeated = built(exact, "float32"), built(ours, "bfloat16"), built(again, "bfloat16")
    draw = torch.Generator("cuda").manual_seed(0)
    for _ in range(5):
        for name, weight in ours.items():
            weight.grad = torch.randn(weight.shape, generator=draw, device="cuda")
            exact[name].grad, again[name].grad = weight.grad.clone(), weight.grad.clone()
        other.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        repeated.step()
    for name, weight in ours.items():
        assert weight.equal(again[name])
        torch.testing.assert_close(weight, exact[name], rtol=0, atol=0.02 * 5 * SETTINGS["lr"])
        for moment in ("exp_avg", "exp_avg_sq"):
            close = optimizer.state[weight][moment].float() - other.state[exact[name]][moment]
            assert close.norm() < 0.01 * other.state[exact[name]][moment].norm()
