"""Quantized loading: that it happened, that gradients arrive whatever was called before, what is refused."""

from importlib.util import find_spec

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from pydantic import ValidationError
from transformers import BitsAndBytesConfig, TorchAoConfig

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit, dpotrain_quantizers
from dpotrain_plugins.quantizers.torchao import TorchAoInt8
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.plugins.quantized import IDS, forward, input_gradient, left_by_two_steps
from tests.support import tiny_checkpoint

BNB = [Bnb4bit, Bnb8bit]
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
KINDS = pytest.mark.parametrize("kind", [*BNB, pytest.param(TorchAoInt8, marks=needs_torchao)])
PRECISIONS = pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    return tiny_checkpoint(folder, "qwen2", hidden_size=64, intermediate_size=128)


def layer_of(kind):
    """The class of the layers that a kind quantizes."""
    if kind is TorchAoInt8:
        from dpotrain_plugins.quantizers.int8_linear import Int8Linear

        return Int8Linear
    return {Bnb4bit: Linear4bit, Bnb8bit: Linear8bitLt}[kind]


def load(checkpoint, quantizer, device="cpu"):
    loader = TransformersLoader(TransformersLoader.Options(name=str(checkpoint)))
    model = loader.load_model(LoadRequest(quantization=quantizer.loading_config(), device=device))
    quantizer.prepare(model)
    return model


@KINDS
def test_linear_layers_are_quantized_and_the_rest_keeps_its_dtype(checkpoint, kind):
    model = load(checkpoint, kind(kind.Options()))
    quantized = {
        name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, layer_of(kind))
    }
    assert quantized == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert model.model.norm.weight.dtype == torch.float32
    assert model.lm_head.weight.dtype == model.model.embed_tokens.weight.dtype == torch.float32
    assert not any(weight.requires_grad for weight in model.parameters())
    assert model.training


@KINDS
def test_quantized_weights_give_nearly_the_models_logits(checkpoint, kind):
    plain = TransformersLoader(TransformersLoader.Options(name=str(checkpoint))).load_model(LoadRequest())
    close = torch.nn.functional.cosine_similarity(
        forward(load(checkpoint, kind(kind.Options()))), forward(plain), dim=-1
    )
    assert close.mean() > (0.8 if kind is Bnb4bit else 0.98)


@PRECISIONS
@KINDS
def test_training_on_a_cpu_changes_the_adapter(checkpoint, kind, autocast):
    adapter = Lora(Lora.Options(rank=4))
    policy = adapter.attach(load(checkpoint, kind(kind.Options())))
    _, unchanged = left_by_two_steps(policy, adapter, autocast)
    assert unchanged == set()


@KINDS
def test_training_goes_on_from_an_adapter_on_a_quantized_base(checkpoint, tmp_path, kind):
    first = Lora(Lora.Options(rank=64))
    first.save(first.attach(load(checkpoint, kind(kind.Options()))), tmp_path)
    loader = TransformersLoader(TransformersLoader.Options(name=str(tmp_path)))
    quantizer, adapter = kind(kind.Options()), Lora(Lora.Options())
    policy = loader.load_model(LoadRequest(quantization=quantizer.loading_config(), keep_adapter=True))
    quantizer.prepare(policy)
    policy = adapter.attach(policy)
    policy(IDS, labels=IDS).loss.backward()
    gradients = [policy.get_parameter(name).grad for name in adapter.state(policy) if "lora_B" in name]
    assert len(gradients) == 14
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@PRECISIONS
@pytest.mark.parametrize("kind", BNB)
@pytest.mark.parametrize("mode_after", ["eval", "train"])
def test_gradients_do_not_vanish_after_a_forward_in_eval_mode(checkpoint, kind, autocast, mode_after):
    """On CPUs with AVX512-BF16 such a forward repacks 4-bit weights, and gradients stop there silently."""
    untouched, _ = input_gradient(load(checkpoint, kind(kind.Options())), autocast)
    model = load(checkpoint, kind(kind.Options()))
    model.eval()
    forward(model, autocast)
    model.generate(IDS, max_new_tokens=2, do_sample=False, pad_token_id=0)
    model.train(mode_after == "train")
    gradient, _ = input_gradient(model, autocast)
    assert (untouched.abs().sum(-1) > 0).all()
    if kind is Bnb4bit or mode_after == "train":
        assert torch.equal(gradient, untouched)
    else:  # in eval mode 8-bit layers round their inputs too, so the numbers are others, but they are there
        assert torch.nn.functional.cosine_similarity(gradient, untouched, dim=-1).mean() > 0.9


@PRECISIONS
@KINDS
def test_reference_and_policy_use_the_same_numerics(checkpoint, kind, autocast):
    """Without gradients, as the reference is computed, the logits are those with gradients."""
    model = load(checkpoint, kind(kind.Options()))
    _, with_gradients = input_gradient(model, autocast)
    assert torch.equal(forward(model, autocast), with_gradients)


@PRECISIONS
@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
def test_a_set_compute_dtype_holds_for_reference_and_policy_alike(checkpoint, compute, autocast):
    model = load(checkpoint, Bnb4bit(Bnb4bit.Options(compute_dtype=compute)))
    _, with_gradients = input_gradient(model, autocast)
    assert torch.equal(forward(model, autocast), with_gradients)


def test_compute_dtype_follows_the_precision_unless_it_is_set(checkpoint):
    following = load(checkpoint, Bnb4bit(Bnb4bit.Options()))
    layer = following.model.layers[0].mlp.up_proj
    for autocast, dtype in ((False, torch.float32), (True, torch.bfloat16), (False, torch.float32)):
        forward(following, autocast)
        assert layer.compute_dtype == dtype
    fixed = load(checkpoint, Bnb4bit(Bnb4bit.Options(compute_dtype="bfloat16")))
    forward(fixed)
    assert fixed.model.layers[0].mlp.up_proj.compute_dtype == torch.bfloat16


def test_options_reach_the_layers(checkpoint):
    model = load(checkpoint, Bnb4bit(Bnb4bit.Options(quant_type="fp4", double_quant=False)))
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.nested) == ("fp4", False)
    model = load(checkpoint, Bnb4bit(Bnb4bit.Options()))
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True)
    model = load(checkpoint, Bnb8bit(Bnb8bit.Options(threshold=3.0)))
    assert model.model.layers[0].mlp.up_proj.state.threshold == 3.0


@pytest.mark.parametrize("part", ["down_proj", "mlp", "layers.1", "f_att"])
@KINDS
def test_skipped_modules_stay_as_they_are_and_so_does_the_head(checkpoint, kind, part):
    """transformers takes a bare name for the beginning or the end of one, and would skip nothing for "mlp"."""
    model = load(checkpoint, kind(kind.Options(skip_modules=[part])))
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert len(kinds) == 15
    for name, found in kinds.items():
        assert found is (torch.nn.Linear if part in name or name == "lm_head" else layer_of(kind)), name


@KINDS
def test_a_mixture_whose_experts_stay_unquantized_is_an_error(tmp_path, kind):
    tiny_checkpoint(tmp_path, "mixtral", hidden_size=64, intermediate_size=128)
    with pytest.raises(RunError, match=r"only \d+% of the weights.*experts") as error:
        load(tmp_path, kind(kind.Options()))
    assert 'quantizer.skip_modules = ["experts"]' in str(error.value)
    load(tmp_path, kind(kind.Options(skip_modules=["experts"])))


@KINDS
def test_a_quantized_head_is_refused(checkpoint, kind):
    if kind is TorchAoInt8:
        from torchao.quantization import Int8WeightOnlyConfig

        everything = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["nothing"])
    else:
        bits = {"load_in_4bit": kind is Bnb4bit, "load_in_8bit": kind is Bnb8bit}
        everything = BitsAndBytesConfig(**bits, llm_int8_skip_modules=["nothing"])
    loader = TransformersLoader(TransformersLoader.Options(name=str(checkpoint)))
    model = loader.load_model(LoadRequest(quantization=everything))
    with pytest.raises(RunError, match=r'"lm_head" to quantizer.skip_modules'):
        kind(kind.Options()).prepare(model)


def test_gpt2s_transposed_layers_are_quantized_and_pass_gradients(tmp_path):
    tiny_checkpoint(tmp_path, "gpt2", n_embd=64)
    gradient, _ = input_gradient(load(tmp_path, Bnb4bit(Bnb4bit.Options())))
    assert (gradient.abs().sum(-1) > 0).all()


def test_quantized_weights_cannot_be_trained_themselves():
    assert [kind.name for kind in dpotrain_quantizers()] == ["bnb-4bit", "bnb-8bit"]
    assert not any(kind.trains_all_weights for kind in BNB)


@pytest.mark.parametrize("options", [{"quant_type": "int4"}, {"compute_dtype": "bf16"}, {"threshold": 6.0}])
def test_meaningless_options_are_refused(options):
    with pytest.raises(ValidationError):
        Bnb4bit.Options(**options)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@PRECISIONS
@pytest.mark.parametrize("kind", BNB)
def test_on_cuda_gradients_arrive_and_reference_and_policy_agree(checkpoint, kind, autocast):
    model = load(checkpoint, kind(kind.Options()), device="cuda:0")
    gradient, logits = input_gradient(model, autocast)
    assert (gradient.abs().sum(-1) > 0).all()
    torch.testing.assert_close(forward(model, autocast), logits, atol=3e-2 if autocast else 1e-3, rtol=1e-2)
