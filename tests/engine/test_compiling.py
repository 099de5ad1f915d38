"""Compiled layers compute the same, and a machine that cannot compile says so beforehand."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.engine.layers import compiling
from dpotrain.engine.layers.compiling import check_compiler, compile_layers
from dpotrain.engine.memory import budget
from dpotrain.run import microbatches
from tests.run.recipes import losses, project, run
from tests.support import tiny_model


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("tiles", [False, True], ids=["whole", "tiles"])
@pytest.mark.parametrize(
    "reference", ["", "reference.update={every=2, share=0.6}"], ids=["initial", "moving"]
)
def test_losses_are_the_same(reference, tiles, monkeypatch, tmp_path):
    recipe = project(tmp_path, adapter=True)
    options = [reference] if reference else []
    run(recipe, *options)
    compiled = [
        *options,
        f"run.output_dir={str(tmp_path / 'compiled')!r}",
        "training.compile=true",
        "training.tokens_per_microbatch=150",
        "training.activation_checkpointing=1",
    ]
    if tiles:
        monkeypatch.setitem(budget.TILE_TOKENS, "cpu", 16)
        monkeypatch.setattr(microbatches, "free_memory", lambda device: 0)
    run(recipe, *compiled)
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


def test_a_run_that_compiles_nothing_imports_no_compiler():
    """It takes a second, before anything is shown."""
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
