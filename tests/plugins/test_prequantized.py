"""Weights that were saved quantized, and what the recipe's [quantizer] says of them."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from dpotrain.core.errors import RunError
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from dpotrain_plugins.quantizers.torchao import TorchAoInt8
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.run.recipes import losses, project, run
from tests.support import dpotrain, tiny_checkpoint, tiny_tokenizer


def save_quantized(base, folder, **options):
    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, device_map={"": "cpu"})
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prequantized")
    return tiny_checkpoint(folder / "base", hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def fp4(base):
    options = {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}
    return save_quantized(base, base.parent / "fp4", load_in_4bit=True, **options)


@pytest.fixture(scope="module")
def int8(base):
    return save_quantized(base, base.parent / "int8", load_in_8bit=True, llm_int8_threshold=3.0)


def load(folder, quantizer, how="load_model"):
    loader = TransformersLoader(TransformersLoader.Options(name=str(folder)))
    request = LoadRequest(quantization=quantizer.loading_config(), quantizer=quantizer)
    return getattr(loader, how)(request)


def claim(base, folder, **config):
    """Copy a model whose config says that it is quantized."""
    copy = Path(shutil.copytree(base, folder))
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    return copy


@pytest.mark.parametrize("how", ["load_model", "blueprint"])
@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            {"skip_modules": ["q_proj"]},
            [
                'quantizer.quant_type = "nf4", but the weights were saved with "fp4"',
                "quantizer.double_quant = true, but the weights were saved with false",
                'quantizer.skip_modules = ["q_proj"], but the weights were saved with []',
            ],
        ),
        (
            {"quant_type": "fp4"},
            ["quantizer.double_quant = true, but the weights were saved with false"],
        ),
    ],
)
def test_each_key_that_the_weights_contradict_is_named_with_both_values(fp4, how, options, lines):
    with pytest.raises(RunError) as error:
        load(fp4, Bnb4bit(Bnb4bit.Options(**options)), how)
    first, *said, last = str(error.value).splitlines()
    assert f"{fp4} are already quantized (bitsandbytes)" in first
    assert said == lines
    assert "Set these keys" in last


def test_the_threshold_of_8_bits_is_compared_alike(int8):
    with pytest.raises(RunError, match=r"quantizer.threshold = 6\.0, but the weights were saved with 3\.0"):
        load(int8, Bnb8bit(Bnb8bit.Options()))
    load(int8, Bnb8bit(Bnb8bit.Options(threshold=3.0)))


@pytest.mark.parametrize("how", ["load_model", "blueprint"])
def test_another_number_of_bits_is_another_quantizer(fp4, int8, how):
    with pytest.raises(
        RunError, match=r'use = "bnb-8bit", but the weights were saved in 4 bits \("bnb-4bit"\)'
    ):
        load(fp4, Bnb8bit(Bnb8bit.Options()), how)
    with pytest.raises(
        RunError, match=r'use = "bnb-4bit", but the weights were saved in 8 bits \("bnb-8bit"\)'
    ):
        load(int8, Bnb4bit(Bnb4bit.Options()), how)


@pytest.mark.parametrize("how", ["load_model", "blueprint"])
@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors"])
def test_another_method_is_named_beside_the_quantizer(base, tmp_path, method, how):
    folder = claim(base, tmp_path / "model", quant_method=method, bits=4)
    for kind in (Bnb4bit, TorchAoInt8):
        with pytest.raises(RunError) as error:
            load(folder, kind(kind.Options()), how)
        assert f'quantizer.use = "{kind.name}", but the weights were saved with {method}' in str(error.value)


def test_another_kind_of_torchao_is_named(base, tmp_path):
    kind = {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}}
    folder = claim(base, tmp_path / "model", quant_method="torchao", quant_type=kind)
    with pytest.raises(RunError, match="saved with torchao's Int4WeightOnlyConfig in groups of 128"):
        load(folder, TorchAoInt8(TorchAoInt8.Options()), "blueprint")


def test_modules_that_were_skipped_are_compared_however_they_were_written(base, tmp_path):
    """What dpotrain itself asks for are expressions that find a part of a name anywhere."""
    quantizer = Bnb4bit(Bnb4bit.Options(skip_modules=["layers.1"]))
    model = load(base, quantizer)
    model.save_pretrained(tmp_path / "own")
    names = ["lm_head", "model.layers.1.mlp"]
    save_quantized(
        base,
        tmp_path / "plain",
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=names,
    )
    load(tmp_path / "own", quantizer)
    load(tmp_path / "plain", Bnb4bit(Bnb4bit.Options(skip_modules=["model.layers.1.mlp"])))
    with pytest.raises(
        RunError, match=r'\["layers\.1"\], but the weights were saved with \["model\.layers\.1\.mlp"\]'
    ):
        load(tmp_path / "plain", quantizer)


@pytest.mark.parametrize(("compute", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_compute_dtype_is_the_recipes_and_not_the_checkpoints(fp4, compute, dtype):
    quantizer = Bnb4bit(Bnb4bit.Options(quant_type="fp4", double_quant=False, compute_dtype=compute))
    model = load(fp4, quantizer)
    quantizer.prepare(model)
    assert model.model.layers[0].mlp.up_proj.compute_dtype == dtype


def test_a_checkpoint_of_2023_that_names_no_method_is_bitsandbytes(base, tmp_path):
    folder = claim(base, tmp_path / "model", load_in_4bit=True, bnb_4bit_quant_type="fp4")
    with pytest.raises(RunError, match=r"already quantized \(bitsandbytes\)"):
        load(folder, Bnb4bit(Bnb4bit.Options()), "blueprint")


def test_check_plan_and_run_say_the_same_of_prequantized_weights(fp4, tmp_path):
    recipe = project(tmp_path, adapter=True)
    fits = ["quantizer.quant_type=fp4", "quantizer.double_quant=false"]
    given = [f"model.name={fp4}", "quantizer.use=bnb-4bit"]

    def words(*overrides):
        return [word for override in overrides for word in ("--set", override)]

    for command in ("check", "plan"):
        wrong = dpotrain(command, str(recipe), *words(*given))
        assert wrong.exit_code == 1
        assert 'quantizer.quant_type = "nf4"' in wrong.output
        assert dpotrain(command, str(recipe), *words(*given, *fits)).exit_code == 0
    plan = json.loads(dpotrain("plan", str(recipe), "--json", *words(*given, *fits)).stdout)
    traced = dpotrain("plugins", "--trace", str(recipe), *words(*given, *fits))
    assert traced.exit_code == 0, traced.output
    with pytest.raises(RunError, match=r"quantizer\.double_quant = true"):
        run(recipe, *given, into=tmp_path / "wrong")
    outcome = run(recipe, *given, *fits, into=tmp_path / "right")
    assert losses(tmp_path / "right")[0] == pytest.approx(math.log(2), abs=1e-6)
    trained = sum(tensor.numel() for tensor in _saved(outcome.final).values())
    assert plan["trained_parameters"] == trained


def _saved(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")
