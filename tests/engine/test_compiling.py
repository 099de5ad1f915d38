"""Compiled layers are one graph each and compute the same; a machine that cannot compile says so beforehand."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.attention import varlen
from dpotrain.engine.layers import compiling
from dpotrain.engine.layers.checkpointing import checkpoint_layers
from dpotrain.engine.layers.compiling import check_compiler, compile_layers, compile_scorer
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.layers.offloading import offload_inputs
from dpotrain.engine.layers.tiling import proven_modules, tile
from dpotrain.engine.memory import budget
from dpotrain.engine.memory.recording import record
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.logprobs import LogitTransform
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.run import microbatches
from dpotrain.run.building import build as building
from dpotrain_plugins.lora import Lora
from tests.engine.cuda_stand_ins import on_the_cpu
from tests.engine.pairs import random_pairs
from tests.run.recipes import losses, project, run
from tests.support import tiny_model

PAIRS = random_pairs([(5, 9, 3), (2, 1, 17), (11, 4, 4), (30, 2, 9)])
ROWS = [pack(PAIRS, pairs) for pairs in ([3], [0, 1, 2], [1, 2, 3, 0], [2, 0])]


@pytest.fixture(autouse=True)
def forget_graphs():
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def policy_of(kind="llama", *, dropout=None, **config):
    model = tiny_model(kind, **config).train()
    torch.manual_seed(1)
    return model if dropout is None else Lora(Lora.Options(rank=1, dropout=dropout)).attach(model)


def gradients(policy, row):
    torch.manual_seed(2)
    sums = PackedScorer(policy, LogitTransform(), bf16=False)(row)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    return [sums, *torch.autograd.grad(sums.square().sum(), weights)]


def assert_same(got, expected):
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


@contextmanager
def graphs(backend):
    """Compile by a backend, count the graphs of layers, and have none broken."""
    import torch._dynamo
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend(backend)
    torch._dynamo.utils.counters.clear()
    with torch.compiler.set_stance(force_backend=counter):
        yield counter
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("checkpointed", [pytest.param(0, marks=pytest.mark.soak), 2])
def test_a_layer_is_one_graph_for_all_rows(checkpointed):
    policy = policy_of()
    checkpoint_layers(policy, checkpointed)
    expected = [gradients(policy, row) for row in ROWS]
    compile_layers(policy)
    with graphs("eager") as counter:
        for row, wanted in zip(ROWS, expected, strict=True):
            assert_same(gradients(policy, row), wanted)
        assert counter.frame_count == 1
        with torch.no_grad():
            for row, wanted in zip(ROWS, expected, strict=True):
                sums = PackedScorer(policy, LogitTransform(), bf16=False)(row)
                assert_same([sums], wanted[:1])
        assert counter.frame_count == 2


@pytest.mark.parametrize("dropout", [None, 0.3], ids=["all weights", "dropout"])
def test_compiled_layers_are_proven_by_a_graph_that_the_run_needs(dropout):
    policy = policy_of(dropout=dropout)
    scorer = PackedScorer(policy, LogitTransform(), bf16=False)
    with graphs("eager") as counter:
        compile_scorer(scorer, ROWS[1])
        proven = counter.frame_count
        assert proven > 0
        with torch.set_grad_enabled(dropout is None), dropout_off(policy):
            scorer(ROWS[2])
        assert counter.frame_count == proven


def test_layers_that_are_compiled_wrongly_are_refused(monkeypatch, tmp_path):
    """By a compiler whose graphs return a little more than they should."""

    def wrong(graph, inputs):
        def compute(*given):
            return tuple(each * 1.01 if each.is_floating_point() else each for each in graph(*given))

        return compute

    monkeypatch.setattr(building, "check_compiler", lambda device: None)
    refused = r"(?s)training\.compile = true: .* the layers of LlamaForCausalLM compute other .*Leave training\.compile"
    with torch.compiler.set_stance(force_backend=wrong), pytest.raises(RunError, match=refused):
        run(project(tmp_path), "training.compile=true", "training.steps=1")


def test_the_variable_length_kernel_is_in_the_graph(monkeypatch):
    policy = policy_of()
    expected = [gradients(policy, row) for row in ROWS]
    compile_layers(policy)
    with on_the_cpu(monkeypatch, varlen.torch_flash) as calls, graphs("eager") as counter:
        for row, wanted in zip(ROWS, expected, strict=True):
            assert_same(gradients(policy, row), wanted)
        assert counter.frame_count == 1
    assert calls == [2] * len(calls)  # key-value heads, which are not repeated
    assert len(calls) == 2 * 2 * len(ROWS)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("dropout", "kernel", "backend"),
    [
        (None, None, "aot_eager"),
        (0.0, "torch_flash", "aot_eager"),
        (0.0, "memory_efficient", "aot_eager"),
        (0.3, None, "inductor"),
    ],
    ids=["all weights", "flash", "memory-efficient", "dropout"],
)
def test_checkpointing_inside_the_graph_keeps_as_little(dropout, kernel, backend, monkeypatch):
    """By what autograd saves: the input, and what the first matrix of adapters returns, a small fraction of it."""
    policy = policy_of(dropout=dropout, num_hidden_layers=3)
    row = ROWS[2]
    plain, expected = kept(policy, row), gradients(policy, row)
    checkpoint_layers(policy, 3)
    eager = kept(policy, row)
    assert eager < plain / 4
    compile_layers(policy)
    with on_the_cpu(monkeypatch, kernel and getattr(varlen, kernel)), graphs(backend) as counter:
        got = gradients(policy, row)
        if not dropout:  # inductor draws other numbers
            assert_same(got, expected)
        assert kept(policy, row) < 1.5 * eager
        count = counter.frame_count
        for other in ROWS:
            gradients(policy, other)
        assert counter.frame_count == count


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "dropout", "bf16"),
    [("llama", None, False), ("llama", 0.0, True), ("qwen3", None, True)],
    ids=["all weights", "lora", "all weights, bf16"],
)
def test_memory_efficient_layers_would_keep_as_much_in_a_graph(kind, dropout, bf16):
    """Why they are not used there: the compiler chooses as well what to keep."""
    found, frames = {}, []
    for compiled in (False, True):
        for efficient in (False, True):
            policy = policy_of(kind, dropout=dropout)
            expected = gradients(policy, ROWS[2])
            if efficient:
                use_memory_efficient_layers(policy)
            scorer = PackedScorer(policy, LogitTransform(), bf16)
            if not compiled:
                found[compiled, efficient] = sum(record(scorer, ROWS[2], scorer).layers)
                continue
            compile_layers(policy)
            with graphs("aot_eager_decomp_partition") as counter:
                found[compiled, efficient] = sum(record(scorer, ROWS[2], scorer).layers)
                frames.append(counter.frame_count)
                if not bf16:
                    assert_same(gradients(policy, ROWS[2]), expected)
            torch._dynamo.reset()
    assert frames[0] == frames[1]
    assert found[True, False] <= 1.01 * found[False, True] < found[False, False]
    assert found[True, False] <= 1.02 * found[True, True]


def kept(policy, row) -> int:
    """Return the bytes of hidden states and larger tensors that a forward pass saves, once each and without weights."""
    known = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    found = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        sums = PackedScorer(policy, LogitTransform(), bf16=False)(row)
    assert sums.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_dropout_is_drawn_again_alike_in_a_compiled_checkpoint():
    """TRAPS: dropout drawn again in the recomputation."""
    found = []
    for checkpointed in (0, 2):
        policy = policy_of(dropout=0.3)
        checkpoint_layers(policy, checkpointed)
        compile_layers(policy)
        found.append(gradients(policy, ROWS[1]))
        torch._dynamo.reset()
    assert_same(*found)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["tiles", "inputs on the host"])
def test_what_cannot_be_traced_stays_outside(what):
    policy = policy_of(num_hidden_layers=3)
    expected = [gradients(policy, row) for row in ROWS]
    if what == "tiles":
        tile((module for modules in proven_modules(policy, bf16=False) for module in modules), 16)
    else:
        checkpoint_layers(policy, 3)
        offload_inputs(policy)
    compile_layers(policy)
    torch._dynamo.utils.counters.clear()
    with torch.compiler.set_stance(force_backend="eager"):
        for row, wanted in zip(ROWS, expected, strict=True):
            assert_same(gradients(policy, row), wanted)
    assert not torch._dynamo.utils.counters["recompile_limit"]


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("reference", "tiles"),
    [("", False), ("reference.update={every=2, share=0.6}", True)],
    ids=["whole", "moving reference, tiles"],
)
def test_losses_are_the_same(reference, tiles, monkeypatch, tmp_path):
    recipe = project(tmp_path, adapter=True)
    options = [reference] if reference else []
    run(recipe, *options)
    compiled = [
        *options,
        "training.compile=true",
        "training.tokens_per_microbatch=150",
        "training.activation_checkpointing=1",
    ]
    if tiles:
        monkeypatch.setitem(budget.TILE_TOKENS, "cpu", 16)
        monkeypatch.setattr(microbatches, "free_memory", lambda device: 0)
    run(recipe, *compiled, into=tmp_path / "compiled")
    if tiles:
        state = json.loads((tmp_path / "compiled/checkpoints/step-00000010/state.json").read_text())
        assert state["microbatches"]["tile"] == 16
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "run"), abs=1e-5)


def test_without_a_compiler_it_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    recipe = project(tmp_path)
    with pytest.raises(RecipeError, match=r"needs a compiler \(g\+\+ or clang\+\+ or c\+\+\)"):
        run(recipe, "training.compile=true")


def test_on_a_gpu_triton_is_needed_too(monkeypatch):
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="triton"):
        check_compiler("cuda")


def test_the_environments_own_compiler_counts(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RecipeError, match="no-such-compiler"):
        check_compiler("cpu")


def test_a_model_without_known_layers_is_refused(monkeypatch):
    monkeypatch.setattr(compiling, "decoder_layers", lambda policy: [])
    with pytest.raises(RunError, match="LlamaForCausalLM does not declare its decoder layers"):
        compile_layers(tiny_model("llama"))


def test_no_compiler_is_imported_before_anything_is_shown():
    """It takes seconds. Later transformers imports it with every model, for a cache of its generation."""
    code = "import dpotrain.run.session, sys; print('torch._dynamo' in sys.modules)"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
