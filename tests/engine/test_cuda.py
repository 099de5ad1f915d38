"""The engine on a CUDA device: flash kernels over segments, pinned copies, bf16."""

import copy
import math

import pytest
import torch

from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blockwise, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.choose_kernels import LABELS, Sizes, choose_kernels, compare, use_kernels
from dpotrain.engine.layers.compiling import compile_layers
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.memory.activations import measure
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.rope_scaling import LengthRule
from dpotrain.engine.scoring.scorer import PaddedScorer
from dpotrain.run.building import engine_builder
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import PACKS, SIZES, build, own_log_prob_sums
from tests.run.recipes import losses, project, run

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_flash_kernel_equals_matrix_products(window, groups):
    torch.manual_seed(0)
    lengths = [PairLengths(70, 33, 90), PairLengths(3, 1, 2), PairLengths(1, 140, 1)]
    segments, shape = Segments.of(lengths).to(CUDA), Shape(0.125, None, window)
    count = sum(pair.total for pair in lengths)
    exact = [torch.randn(count, heads, 64, device="cuda") for heads in (4, groups, groups)]
    low = [tensor.bfloat16().requires_grad_() for tensor in exact]
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    assert varlen.choose(low[0], low[2], segments, shape) is varlen.torch_flash
    got, expected = varlen.torch_flash(*low, segments, shape), blockwise.attend(*exact, segments, shape)
    torch.testing.assert_close(got.float(), expected, atol=2e-2, rtol=2e-2)
    slope = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(got, low, slope.bfloat16()),
        torch.autograd.grad(expected, exact, slope),
        strict=True,
    ):
        assert (mine.float() - theirs).norm() / theirs.norm() < 0.02


@pytest.mark.parametrize(
    ("size", "value_size", "dtype", "atol"),
    [(64, 64, torch.float32, 1e-4), (320, 320, torch.bfloat16, 2e-2), (192, 128, torch.bfloat16, 2e-2)],
)
def test_the_memory_efficient_kernel_equals_matrix_products(size, value_size, dtype, atol):
    torch.manual_seed(0)
    lengths = [PairLengths(70, 33, 90), PairLengths(3, 1, 2), PairLengths(1, 140, 1)]
    segments, shape = Segments.of(lengths).to(CUDA), Shape(size**-0.5, None, None)
    count = sum(pair.total for pair in lengths)
    exact = [
        torch.randn(count, heads, each, device="cuda")
        for heads, each in ((4, size), (2, size), (2, value_size))
    ]
    low = [tensor.to(dtype).requires_grad_() for tensor in exact]
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    assert varlen.choose(low[0], low[2], segments, shape) is varlen.memory_efficient
    got, expected = varlen.memory_efficient(*low, segments, shape), blockwise.attend(*exact, segments, shape)
    torch.testing.assert_close(got.float(), expected, atol=atol, rtol=2e-2)
    slope = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(got, low, slope.to(dtype)),
        torch.autograd.grad(expected, exact, slope.to(dtype).float()),
        strict=True,
    ):
        assert (mine.float() - theirs).norm() / theirs.norm() < atol


@pytest.mark.parametrize("kind", PACKS)
def test_float32_is_exact(kind):
    model = build(kind).cuda()
    data = random_pairs(SIZES)
    expected = own_log_prob_sums(copy.deepcopy(model).cpu(), data)
    batch = pack(data, range(len(data))).to(torch.device("cuda"))
    got = choose_scorer(model, batch, packing="on", bf16=False).scorer(batch)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
def test_bf16_packs(kind):
    model = build(kind, initializer_range=0.05).cuda()
    data = random_pairs(SIZES)
    batch = pack(data, range(len(data))).to(torch.device("cuda"))
    got = choose_scorer(model, batch, packing="on", bf16=True).scorer(batch)
    expected = own_log_prob_sums(model.cpu(), data)
    torch.testing.assert_close(got.cpu(), expected, atol=0.5, rtol=5e-3)


def test_a_wrong_mask_of_the_flash_kernel_is_found_under_autocast(monkeypatch):
    """Weights are in float32, and so is the first comparison, which another kernel serves."""
    attend = varlen.torch_flash
    monkeypatch.setattr(varlen, "torch_flash", lambda query, key, *more: attend(query, key.roll(1, 0), *more))
    model = build("llama", initializer_range=0.3).cuda()
    batch = pack(random_pairs(SIZES), range(len(SIZES))).to(CUDA)
    assert not choose_scorer(model, batch, packing="auto", bf16=False).reason
    assert "differ in bfloat16" in choose_scorer(model, batch, packing="auto", bf16=True).reason


@pytest.mark.parametrize("layers", [0, 2])
def test_compiled_layers_equal_uncompiled_ones(layers):
    from torch._dynamo.utils import counters

    model = build("llama").cuda().train()
    checkpoint_layers(model, layers)
    rows = [pack(random_pairs(SIZES), pairs).to(CUDA) for pairs in ([0], [0, 1])]
    scorer = choose_scorer(model, rows[1], packing="on", bf16=True).scorer
    weights = list(model.parameters())

    def gradients():
        return [torch.autograd.grad(scorer(row).sum(), weights) for row in rows]

    expected = gradients()
    compile_layers(model)
    counters.clear()
    for mine, theirs in zip(gradients(), expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert (one - other).norm() < 0.05 * other.norm()
    assert not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.parametrize("adapter", [False, True])
def test_a_run(adapter, tmp_path):
    recipe = project(tmp_path, adapter=adapter)
    outcome = run(recipe, 'training.precision="bf16"')
    got = losses(tmp_path / "run")
    assert got[0] == pytest.approx(math.log(2), abs=2e-3)
    assert got[-1] < got[0]
    assert outcome.peak_memory_mb > 0


@pytest.mark.parametrize("layers", [0, 2, 4])
@pytest.mark.parametrize("hidden", [256, 2048], ids=["activations", "gradients"])
def test_measured_memory_predicts_a_larger_micro_batch(hidden, layers):
    """With many weights, gradients take more than activations of the micro-batches that are measured."""
    model = build("llama", num_hidden_layers=4, hidden_size=hidden, intermediate_size=1024).cuda().train()
    scorer = choose_scorer(model, pack(random_pairs(SIZES), [0]).to(CUDA), packing="on", bf16=True).scorer
    data = random_pairs([(100, 200, 212)])
    some, more, many = (pack(data, [0] * times).to(CUDA) for times in (2, 4, 40))
    found = measure(scorer, some, more, (1024, 2048))
    assert all(weight.grad is None for weight in scorer.parameters())
    assert found.temporary.per_token > 0
    checkpoint_layers(model, layers)
    scorer(some).sum().backward()  # gradients are in place, as in all micro-batches of a step but the first
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    scorer(many).sum().backward()
    taken = torch.cuda.max_memory_allocated() - before
    assert found.peak(40 * 512, layers) == pytest.approx(taken, rel=0.3)


@pytest.mark.parametrize("rules", [(), (LengthRule("by length", 0, per_length=True),)])
def test_padded_pairs_are_scored_without_a_wait(rules):
    model = build("llama").cuda()
    model.set_attn_implementation("eager")  # for others transformers looks whether anything is padded
    scorer = PaddedScorer(model, LogitTransform(), True, rules)
    data = random_pairs(SIZES)
    expected = PaddedScorer(model, LogitTransform(), True)(pack(data, range(len(data))).to(CUDA))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = scorer(pack(data, range(len(data))).to(CUDA))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got, expected, atol=0.3, rtol=1e-3)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_kernels_give_the_plain_codes_results(trained, bf16):
    model = build("qwen3").cuda().requires_grad_(trained)
    sizes = Sizes.of(model, 2048, bf16)
    for name in LABELS:
        found = compare(name, sizes, CUDA)
        assert found.fault == "", name
        assert min(found.plain_ms, found.kernel_ms) > 0
    notes = []
    assert choose_kernels(LABELS, sizes, CUDA, notes.append) <= set(LABELS)
    assert notes == []


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_with_kernels_is_the_same_model(bf16):
    model = build("qwen3", initializer_range=0.05).cuda()
    batch = pack(random_pairs(SIZES), range(len(SIZES))).to(CUDA)
    expected = choose_scorer(model, batch, packing="on", bf16=bf16).scorer(batch)
    other = copy.deepcopy(model)
    use_memory_efficient_layers(other)
    use_kernels(other, LABELS)
    scorer = choose_scorer(other, batch, packing="on", bf16=bf16).scorer
    scorer.fused_head = True
    got = scorer(batch)
    torch.testing.assert_close(got, expected, atol=0.2 if bf16 else 1e-3, rtol=5e-3 if bf16 else 1e-4)
    for each in (got, expected):
        (each[:, 0] - each[:, 1]).sum().backward()
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert (mine.grad - theirs.grad).norm() <= (0.05 if bf16 else 1e-3) * theirs.grad.norm()


def test_a_run_with_and_without_kernels(tmp_path, monkeypatch):
    found = []
    for number, names in enumerate((set(), set(LABELS))):
        monkeypatch.setattr(engine_builder, "choose_kernels", lambda *_, names=names: names)
        folder = tmp_path / str(number)
        folder.mkdir()
        run(project(folder), 'training.precision="fp32"')
        found.append(losses(folder / "run"))
    assert found[0] == pytest.approx(found[1], abs=1e-4)
