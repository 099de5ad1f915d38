"""The built-in optimizers."""

import copy
import math
import warnings

import bitsandbytes
import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import Trained
from dpotrain.recipe.load import load_recipe
from dpotrain_plugins.optimizers import Adafactor, AdamW, AdamW8bit, Lion, Muon, PagedAdamW8bit, eight_bits
from dpotrain_plugins.optimizers.paged import ResumablePagedAdamW8bit

ALL = [AdamW, AdamW8bit, PagedAdamW8bit, Adafactor, Lion, Muon]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    drawn = {"matrix": torch.randn(4, 3), "vector": torch.randn(5), "embed": torch.randn(6, 3)}
    return {name: torch.nn.Parameter(weight.to(dtype)) for name, weight in drawn.items()}


def step(optimizer: torch.optim.Optimizer, trained: dict[str, torch.nn.Parameter], gradient: float) -> None:
    for weight in trained.values():
        weight.grad = torch.full_like(weight, gradient)
    optimizer.step()


def drawn_steps(
    optimizer: torch.optim.Optimizer, trained: dict[str, torch.nn.Parameter], steps: range
) -> None:
    """Take steps, each with the gradients of its number."""
    for number in steps:
        draw = torch.Generator().manual_seed(number)
        for weight in trained.values():
            weight.grad = torch.randn(weight.shape, generator=draw).to(weight.dtype)
        optimizer.step()


def gradients(like: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """Return gradients in float64."""
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(like.shape, generator=draw).double() for _ in range(steps)]


def after(kind, name: str, steps: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight in float64, before and after steps with :func:`gradients`."""
    trained = weights()
    optimizer = kind(kind.Options(**options)).build(trained)
    before = trained[name].detach().double()
    for gradient in gradients(before, steps):
        for weight in trained.values():
            weight.grad = torch.zeros_like(weight)
        trained[name].grad = gradient.float()
        optimizer.step()
    return before, trained[name].detach().double()


def test_moments_are_there_before_the_first_step_and_are_what_torch_would_make():
    ours, plain = weights(), weights()
    optimizer = AdamW(AdamW.Options(lr=0.1)).build(ours)
    other = torch.optim.AdamW(plain.values(), lr=0.1, weight_decay=0.0, fused=True)
    assert len(optimizer.state) == len(ours)
    assert not any(state["exp_avg"].any() or state["exp_avg_sq"].any() for state in optimizer.state.values())
    for _ in range(3):
        step(optimizer, ours, 1.0)
        step(other, plain, 1.0)
    for one, two in zip(ours.values(), plain.values(), strict=True):
        assert one.equal(two)
        assert optimizer.state[one].keys() == other.state[two].keys()
        for name, value in other.state[two].items():
            assert optimizer.state[one][name].equal(value)
            assert optimizer.state[one][name].dtype == value.dtype


@pytest.mark.parametrize("kind", ALL)
def test_vectors_are_not_decayed(kind):
    trained, before = weights(), weights()
    optimizer = kind(kind.Options(lr=0.1, weight_decay=0.5)).build(trained)
    step(optimizer, trained, 0.0)
    torch.testing.assert_close(trained["matrix"], before["matrix"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(trained["embed"], before["embed"] * (1 - 0.1 * 0.5))
    assert trained["vector"].equal(before["vector"])


def test_every_option_reaches_torch():
    optimizer = AdamW(AdamW.Options(lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)).build(weights())
    matrices, vectors = optimizer.param_groups
    for group in (matrices, vectors):
        assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.9), 1e-3)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.2, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL)
def test_a_resumed_optimizer_goes_on_to_the_bit_in_every_dtype(kind, dtype):
    trained = weights(dtype)
    optimizer = kind(kind.Options(lr=0.01, weight_decay=0.1)).build(trained)
    drawn_steps(optimizer, trained, range(3))
    other = {name: copy.deepcopy(weight) for name, weight in trained.items()}
    resumed = kind(kind.Options(lr=0.01, weight_decay=0.1)).build(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    drawn_steps(optimizer, trained, range(3, 6))
    drawn_steps(resumed, other, range(3, 6))
    for name, weight in trained.items():
        assert weight.equal(other[name])
        for key, value in optimizer.state[
            weight
        ].items():  # a weight in bfloat16 hides what is rounded in them
            loaded = resumed.state[other[name]][key]
            assert loaded.equal(value) if isinstance(value, torch.Tensor) else loaded == value


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["matrix", "vector"])
def test_adafactor_is_the_paper_s(name, scaled):
    """Algorithms 4 and 5, with a step size that does not follow the step (Shazeer & Stern 2018)."""
    decay, lr, rate, threshold = 0.1, 0.01, -0.7, 0.9
    given = {"lr": lr, "weight_decay": decay, "decay_rate": rate, "clip_threshold": threshold}
    weight, got = after(Adafactor, name, 4, scale_parameter=scaled, **given)

    def rms(value: torch.Tensor) -> torch.Tensor:
        return value.square().mean().sqrt()

    factored = weight.ndim == 2
    rows, columns = (torch.zeros(n).double() for n in (weight.shape[0], weight.shape[-1]))
    for t, gradient in enumerate(gradients(weight, 4), start=1):
        beta, square = 1 - t**rate, gradient**2
        columns = beta * columns + (1 - beta) * (square.mean(0) if factored else square)
        if factored:
            rows = beta * rows + (1 - beta) * square.mean(1)
        moment = torch.outer(rows, columns) / rows.mean() if factored else columns
        update = gradient / moment.sqrt()
        update /= max(1.0, rms(update) / threshold)
        size = lr * (max(1e-3, rms(weight)) if scaled else 1.0)
        weight = weight - size * (decay * weight if factored else 0.0) - size * update
    torch.testing.assert_close(got, weight, rtol=0, atol=1e-6)


def test_adafactor_does_not_divide_by_zero_where_a_row_has_no_gradient():
    trained, before = weights(), weights()
    optimizer = Adafactor(Adafactor.Options(lr=0.1)).build(trained)
    for weight in trained.values():
        weight.grad = torch.zeros_like(weight)
    trained["embed"].grad[2] = 1e-9  # of a token that is seen
    optimizer.step()
    assert trained["embed"].isfinite().all()
    assert (trained["embed"] != before["embed"]).any(1).tolist() == [False, False, True, False, False, False]


def test_adafactor_keeps_its_moments_in_float32_where_weights_are_in_bfloat16():
    trained = weights(torch.bfloat16)
    optimizer = Adafactor(Adafactor.Options(lr=0.01)).build(trained)
    drawn_steps(optimizer, trained, range(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {
        value.dtype
        for state in optimizer.state.values()
        for value in state.values()
        if not isinstance(value, int)
    } == {torch.float32}


@pytest.mark.parametrize("name", ["matrix", "vector"])
def test_lion_is_the_paper_s(name):
    """Algorithm 2 of Chen et al. 2023."""
    lr, decay, (first, second) = 0.01, 0.3, (0.8, 0.95)
    weight, got = after(Lion, name, 4, lr=lr, weight_decay=decay, betas=(first, second))
    moment = torch.zeros_like(weight)
    for gradient in gradients(weight, 4):
        update = (first * moment + (1 - first) * gradient).sign()
        weight = weight - lr * (update + (decay * weight if weight.ndim == 2 else 0.0))
        moment = second * moment + (1 - second) * gradient
    torch.testing.assert_close(got, weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_orthogonalizes_a_nesterov_mean(adjust):
    """Jordan et al. 2024: five steps of a quintic iteration, here in float64 and there in bfloat16."""
    lr, decay, momentum = 0.01, 0.3, 0.9
    options = {"lr": lr, "weight_decay": decay, "momentum": momentum, "adjust_lr": adjust}
    weight, got = after(Muon, "matrix", 3, **options)
    rows, columns = weight.shape
    factor = (
        0.2 * math.sqrt(max(rows, columns))
        if adjust == "match_rms_adamw"
        else math.sqrt(max(1, rows / columns))
    )
    mean = torch.zeros_like(weight)
    for gradient in gradients(weight, 3):
        mean = momentum * mean + (1 - momentum) * gradient
        made = (1 - momentum) * gradient + momentum * mean
        made = made / made.norm()
        for _ in range(5):
            gram = made @ made.T
            made = 3.4445 * made + (-4.7750 * gram + 2.0315 * gram @ gram) @ made
        assert (torch.linalg.svdvals(made) - 0.95).abs().max() < 0.3
        weight = weight * (1 - lr * decay) - lr * factor * made
    torch.testing.assert_close(got, weight, rtol=0, atol=3 * 0.03 * lr * factor)


@pytest.mark.parametrize("name", ["embed", "vector"])
def test_muon_s_other_weights_are_adamw_s_to_the_bit(name):
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
    _, muon = after(Muon, name, 3, **options)
    _, adamw = after(AdamW, name, 3, **options)
    assert muon.equal(adamw)


def test_the_names_of_weights_decide_what_muon_is_for():
    trained = {
        "model.embed_tokens.weight": torch.nn.Parameter(torch.ones(4, 2)),
        "model.layers.0.self_attn.q_proj.weight": torch.nn.Parameter(torch.ones(2, 2)),
        "model.layers.0.mlp.experts": torch.nn.Parameter(torch.ones(3, 2, 2)),
        "model.norm.weight": torch.nn.Parameter(torch.ones(2)),
        "lm_head.weight": torch.nn.Parameter(torch.ones(4, 2)),
    }

    def hidden(**options) -> list[str]:
        groups = Muon(Muon.Options(lr=0.1, **options)).build(trained).param_groups
        chosen = [weight for group in groups if group["method"] == "muon" for weight in group["params"]]
        return [name for name, weight in trained.items() if any(weight is one for one in chosen)]

    assert hidden() == ["model.layers.0.self_attn.q_proj.weight"]
    assert hidden(adamw_weights=["*q_proj*", "*head*"]) == ["model.embed_tokens.weight"]


def test_muon_is_refused_where_there_is_no_matrix_for_it():
    trained = {name: weight for name, weight in weights().items() if name != "matrix"}
    with pytest.raises(RunError) as caught:
        Muon(Muon.Options(lr=0.1)).build(trained)
    assert str(caught.value) == (
        "muon updates hidden matrices, and there is none among the 2 trained weights (vector, embed).\n"
        'Set optimizer.use = "adamw", or shorten optimizer.adamw_weights.'
    )


def test_muon_takes_a_state_that_has_matrices_only():
    """As with LoRA, where nothing is left for AdamW."""
    trained = {"matrix": weights()["matrix"]}
    optimizer = Muon(Muon.Options(lr=0.1)).build(trained)
    step(optimizer, trained, 1.0)
    assert [group["method"] for group in optimizer.param_groups] == ["muon"]


def test_on_a_cpu_nothing_is_paged_and_nothing_is_said():
    one, other = weights(), weights()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Paged optimizers")
        paged = PagedAdamW8bit(PagedAdamW8bit.Options(lr=0.1)).build(one)
        plain = AdamW8bit(AdamW8bit.Options(lr=0.1)).build(other)
        drawn_steps(paged, one, range(2))
        drawn_steps(plain, other, range(2))
    assert all(weight.equal(other[name]) for name, weight in one.items())


def test_loaded_moments_lie_in_pages():
    """On a CPU, where bitsandbytes makes ordinary tensors of them: that they are its own, and whole."""
    trained = {"large": torch.nn.Parameter(torch.ones(400, 300)), "small": torch.nn.Parameter(torch.ones(7))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        optimizer = ResumablePagedAdamW8bit(list(trained.values()), lr=0.1)
        drawn_steps(optimizer, trained, range(2))
        saved = copy.deepcopy(optimizer.state_dict())
        made = []
        resumed = ResumablePagedAdamW8bit(list(trained.values()), lr=0.1)
        plain = resumed.get_state_buffer
        resumed.get_state_buffer = lambda *given, **named: made.append(plain(*given, **named)) or made[-1]
        resumed.load_state_dict(saved)
    assert len(made) == 4
    for weight in trained.values():
        for name, value in optimizer.state[weight].items():
            loaded = resumed.state[weight][name]
            assert loaded == value if isinstance(value, int) else loaded.equal(value)
            assert not name.startswith("state") or any(loaded is one for one in made)


def test_pages_are_counted_where_bitsandbytes_makes_them():
    paged = PagedAdamW8bit(PagedAdamW8bit.Options(lr=0.1))
    sizes = [Trained(99_999, 4), Trained(100_000, 4), Trained(200_000, 2)]
    assert paged.paged_bytes(sizes) == 2 * 300_000
    assert paged.state_bytes(sizes) == AdamW8bit(AdamW8bit.Options(lr=0.1)).state_bytes(sizes)
    assert AdamW8bit(AdamW8bit.Options(lr=0.1)).paged_bytes(sizes) == 0


def test_a_recipe_that_does_not_say_means_adamw_and_cosine(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'run.output_dir = "run"\nmodel.use = "demo"\ndata.use = "demo"\nloss.use = "dpo"\noptimizer.lr = 1e-3\n'
    )
    recipe = load_recipe(path)
    assert (recipe.document["optimizer"]["use"], recipe.document["schedule"]["use"]) == ("adamw", "cosine")


@pytest.mark.parametrize(
    ("kind", "plain"), [(AdamW8bit, bitsandbytes.optim.AdamW8bit), (Lion, bitsandbytes.optim.Lion32bit)]
)
def test_from_the_second_step_on_nothing_waits_for_the_device_and_updates_are_those_of_bitsandbytes(
    kind, plain, monkeypatch
):
    """Its own step synchronizes after every weight."""
    waits = []
    monkeypatch.setattr(bitsandbytes.optim.optimizer, "sync_gpu", waits.append)
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (
        {"large": torch.nn.Parameter(torch.randn(64, 80, generator=draw.manual_seed(0))), **weights()}
        for _ in range(2)
    )
    optimizer = kind(kind.Options(lr=0.01)).build(ours)
    other = plain(theirs.values(), lr=0.01, weight_decay=0.0, betas=optimizer.defaults["betas"])
    drawn_steps(optimizer, ours, range(1))
    waits.clear()
    drawn_steps(optimizer, ours, range(1, 4))
    assert not waits
    drawn_steps(other, theirs, range(4))
    assert len(waits) == 4 * len(theirs)
    for name, weight in ours.items():
        assert weight.equal(theirs[name])
    before = {name: weight.clone() for name, weight in ours.items()}
    optimizer.zero_grad()
    ours["matrix"].grad = torch.ones_like(ours["matrix"])
    optimizer.step()
    assert [name for name, weight in ours.items() if not weight.equal(before[name])] == ["matrix"]


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("kind", "plain"), [(AdamW8bit, bitsandbytes.optim.AdamW8bit), (Lion, bitsandbytes.optim.Lion32bit)]
)
def test_on_a_gpu_nothing_is_waited_for_either(kind, plain, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(64, 80 + number, generator=draw) for number in range(9)]
    trained = [{str(at): torch.nn.Parameter(each.cuda()) for at, each in enumerate(drawn)} for _ in range(2)]
    optimizer = kind(kind.Options(lr=0.01)).build(trained[0])
    other = plain(trained[1].values(), lr=0.01, weight_decay=0.0, betas=optimizer.defaults["betas"])
    for number in range(4):
        for weights_of, taking in zip(trained, (optimizer, other), strict=True):
            for weight in weights_of.values():
                weight.grad = torch.full_like(weight, 0.1 * (number + 1))
            torch.cuda.synchronize()
            with monkeypatch.context() as patched:
                if number and taking is optimizer:
                    patched.setattr(torch.cuda, "synchronize", lambda *given: pytest.fail("waits"))
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    taking.step()
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_blocks_are_updated_on_a_cpu_as_bitsandbytes_updates_whole_weights(monkeypatch, dtype):
    monkeypatch.setattr(eight_bits, "BATCH_NUMBERS", 1024)
    shapes = {
        "matrix": (70, 100),
        "vector": (5000,),
        "small": (30, 30),
    }  # no multiple of a block, and in float32
    draw = torch.Generator().manual_seed(0)
    ours = {
        name: torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype))
        for name, shape in shapes.items()
    }
    plain = copy.deepcopy(ours)
    optimizer = AdamW8bit(AdamW8bit.Options(lr=0.01, weight_decay=0.1)).build(ours)
    groups = [
        {"params": [plain["matrix"], plain["small"]], "weight_decay": 0.1},
        {"params": [plain["vector"]], "weight_decay": 0.0},
    ]
    other = bitsandbytes.optim.AdamW8bit(groups, lr=0.01)
    drawn_steps(optimizer, ours, range(4))
    drawn_steps(other, plain, range(4))
    for name, weight in plain.items():
        assert weight.equal(ours[name])
        for key, value in other.state[weight].items():
            own = optimizer.state[ours[name]][key]
            assert own.equal(value) if isinstance(value, torch.Tensor) else own == value
