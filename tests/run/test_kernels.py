"""Which kernels a run has: compared once for models of one size, the same on every process, and shown."""

import pytest
import torch

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.layers.memory_efficient import functions_of, use_memory_efficient_layers
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.run.building import engine_builder
from dpotrain.run.building.engine_builder import EngineBuilder
from tests.run.recipes import Recording, project, run
from tests.support import tiny_model


class TwoProcesses(OneProcess):
    """The other process found fewer kernels to be faster."""

    def gather_objects(self, item):
        return [item, {"swiglu", "head"}]


@pytest.fixture
def compared(monkeypatch):
    """Kernels that are asked for, with a GPU in mind; those of layers, and none of the head, are found to be faster."""
    asked = []

    def choose(names, sizes, device, note):
        asked.append((names, sizes))
        return {"rms_norm", "swiglu"} & names

    monkeypatch.setattr(engine_builder, "choose_kernels", choose)
    return asked


def builder(tmp_path, device, *changes):
    recipe = load_recipe(project(tmp_path), list(changes))
    data = prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter())
    return EngineBuilder(recipe, TwoProcesses(torch.device(device)), data, SilentReporter())


def test_policy_and_reference_of_one_size_share_them(tmp_path, compared):
    engine = builder(tmp_path, "cuda", "training.tokens_per_microbatch=512")
    models = [tiny_model("llama") for _ in range(2)]
    for model in models:
        use_memory_efficient_layers(model)
        assert engine._choose_kernels(model, "the policy") == {"swiglu"}
    ((names, sizes),) = compared
    assert names == {"rms_norm", "swiglu", "rotary", "head"}
    assert sizes.tokens == 512
    assert engine.kernels == "Triton kernels: SwiGLU"


def test_compiled_layers_have_none_and_the_head_may(tmp_path, compared):
    """torch.compile fuses layers by itself, so nothing in them is replaced."""
    engine = builder(tmp_path, "cuda", "training.compile=true")
    model = tiny_model("llama")
    assert functions_of(model) == set()
    assert engine._choose_kernels(model, "the policy") == set()
    assert [names for names, _ in compared] == [{"head"}]
    assert engine.kernels == ""


def test_a_cpu_has_none(tmp_path, compared):
    reporter = Recording()
    run(project(tmp_path), "training.steps=1", reporter=reporter)
    if not torch.cuda.is_available():
        assert compared == []
        assert "Triton" not in reporter.facts["engine"]
