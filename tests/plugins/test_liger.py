"""The liger loader: what it refuses and when, and that its kernels leave the model what it was."""

import subprocess
import sys
import types

import pytest
import torch

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.data.batches.packing import pack
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.plugin.api import LoadRequest
from dpotrain.recipe.document import dump_recipe
from dpotrain_plugins import liger
from dpotrain_plugins.liger import LigerLoader
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.engine.pairs import random_pairs
from tests.run.recipes import project
from tests.support import tiny_checkpoint, tiny_model


def loader(name, **options):
    return LigerLoader(LigerLoader.Options(name=str(name), **options))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", "llama")


class Kernels:
    """Stands in for liger-kernel, which needs a GPU to compute: the same interface, with kernels made of torch."""

    def __init__(self, activation) -> None:
        self.activation = activation
        self.calls: list[dict[str, object]] = []

    def apply_to_llama(self, model, **kwargs) -> None:
        self.calls.append(kwargs)

        def forward(mlp, x):
            return mlp.down_proj(self.activation(mlp.gate_proj(x)) * mlp.up_proj(x))

        for layer in model.base_model.layers:
            layer.mlp.forward = types.MethodType(forward, layer.mlp)


@pytest.fixture
def stand_in(monkeypatch):
    """Install the stand-in as liger-kernel, on a machine that claims to have a GPU."""

    def install(activation=torch.nn.functional.silu) -> Kernels:
        kernels = Kernels(activation)
        module = types.ModuleType("liger_kernel.transformers.monkey_patch")
        module.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": kernels.apply_to_llama}
        for name in ("liger_kernel", "liger_kernel.transformers"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(liger, "version", {"liger-kernel": "0.8"}.__getitem__)
        return kernels

    return install


def test_a_machine_without_a_driver_is_told_by_the_check(checkpoint, monkeypatch):
    monkeypatch.setattr(liger, "_driver_found", lambda: False)
    with pytest.raises(RecipeError, match=r"(?s)NVIDIA GPU.*model\.use = \"transformers\""):
        loader(checkpoint).check()


def test_a_missing_folder_is_told_as_by_the_transformers_loader():
    with pytest.raises(RecipeError, match="there is no such folder"):
        loader("./nowhere").check()


def test_the_check_loads_nothing_heavy(checkpoint):
    code = (
        "import sys\n"
        "from dpotrain.core.errors import RecipeError\n"
        "from dpotrain_plugins.liger import LigerLoader\n"
        f"loader = LigerLoader(LigerLoader.Options(name={str(checkpoint)!r}))\n"
        "try:\n    loader.check()\nexcept RecipeError:\n    pass\n"
        "print({'torch', 'transformers', 'liger_kernel', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_torch_without_a_gpu_is_told_before_the_model_is_looked_for():
    with pytest.raises(RunError, match="torch finds none"):
        loader("no/such-model").load_model(LoadRequest())


def test_an_unknown_architecture_is_told_before_its_weights_are_read(tmp_path, stand_in):
    stand_in()
    folder = tiny_checkpoint(tmp_path / "gpt2", "gpt2")
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(
        RunError, match=r"(?s)liger-kernel 0\.8 has no kernels for a gpt2 model.*transformers"
    ):
        loader(folder).load_model(LoadRequest())


def test_kernels_that_compute_something_else_are_refused(checkpoint, stand_in):
    stand_in(activation=torch.relu)
    with pytest.raises(RunError, match=r"(?s)computes something else: .* move by \d+%"):
        loader(checkpoint).load_model(LoadRequest())


def test_hidden_states_that_are_no_numbers_are_refused(checkpoint, stand_in):
    stand_in(activation=lambda x: x * float("nan"))
    with pytest.raises(RunError, match="computes something else"):
        loader(checkpoint).load_model(LoadRequest())


def test_a_recipe_with_it_comes_back_as_it_went_in(tmp_path, monkeypatch):
    monkeypatch.setattr(LigerLoader, "check", lambda self: None)
    overrides = {"model.use": "liger", "model.name": str(tmp_path / "model"), "model.attention": "sdpa"}
    recipe = load_recipe(project(tmp_path), overrides)
    assert isinstance(recipe.model, LigerLoader)
    again = tmp_path / "again.toml"
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again).model.options == recipe.model.options
    assert set(LigerLoader.Options.model_fields) == set(TransformersLoader.Options.model_fields)


def test_the_kernels_are_put_in_without_their_losses(checkpoint, stand_in):
    kernels = stand_in()
    model = loader(checkpoint).load_model(LoadRequest())
    assert kernels.calls == [{"cross_entropy": False, "fused_linear_cross_entropy": False}]
    assert model.training
    assert "forward" not in vars(model)
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_model("llama")(ids).logits)


def test_the_model_inside_an_adapter_is_the_one_that_gets_them(checkpoint, tmp_path, stand_in):
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapter = get_peft_model(tiny_model("llama"), config)
    adapter.peft_config["default"].base_model_name_or_path = str(checkpoint)
    adapter.save_pretrained(tmp_path / "adapter")
    stand_in()
    model = loader(tmp_path / "adapter").load_model(LoadRequest(keep_adapter=True))
    assert isinstance(model, PeftModel)
    assert all("forward" in vars(layer.mlp) for layer in model.get_base_model().model.layers)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_packed_log_probs_and_gradients_are_those_without_liger(kind, tmp_path):
    pytest.importorskip("liger_kernel")
    folder = tiny_checkpoint(tmp_path / kind, kind, initializer_range=0.05)
    batch = pack(random_pairs([(9, 5, 7), (3, 12, 4)]), range(2)).to(torch.device("cuda"))
    sums, slopes = [], []
    # The plain one first: Liger's rotary embedding stays for the whole process.
    for kind_of_loader in (TransformersLoader, LigerLoader):
        options = kind_of_loader.Options(name=str(folder), dtype="float32")
        model = kind_of_loader(options).load_model(LoadRequest(device="cuda"))
        scorer = choose_scorer(model, batch, packing="on", bf16=True).scorer
        got = scorer(batch)
        (got[:, 0] - got[:, 1]).sum().backward()
        sums.append(got.detach())
        slopes.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(sums[1], sums[0], atol=0.5, rtol=5e-3)
    assert (slopes[1] - slopes[0]).norm() / slopes[0].norm() < 0.05
