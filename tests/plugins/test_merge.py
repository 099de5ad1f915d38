"""Merging an adapter: the result is a plain model that computes what the adapter on its base does, or there is none."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpotrain.core.errors import RunError
from dpotrain_plugins.merge import merging
from dpotrain_plugins.merge.merging import merge
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from tests.run.recipes import project, run
from tests.support import dpotrain

IDS = torch.arange(4, 24)[None]
FAST = ["optimizer.lr=2e-2", "schedule.use=constant", "schedule.warmup_fraction=0", "training.steps=4"]


def log_probs(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float().log_softmax(-1)


def load(folder, **more):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The run folder of a LoRA run with the exporter."""
    recipe = project(tmp_path_factory.mktemp("plain"), adapter=True)
    run(recipe, *FAST, 'exporters=[{use="merge"}]')
    return recipe.parent / "run"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    """The run folder of a 4-bit run."""
    recipe = project(
        tmp_path_factory.mktemp("quantized"), adapter=True, hidden_size=64, intermediate_size=128
    )
    run(recipe, *FAST, 'quantizer.use="bnb-4bit"')
    return recipe.parent / "run"


def test_the_exporter_leaves_a_model_that_needs_no_peft(plain):
    base = load(plain.parent / "model")
    before = log_probs(base)
    unmerged = log_probs(PeftModel.from_pretrained(base, plain / "final"))
    merged = log_probs(load(plain / "merged"))
    assert (unmerged - before).abs().max() > 0.1
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=0)
    assert not (plain / "merged" / "adapter_config.json").exists()
    assert (plain / "final" / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(plain / "merged")("the fox") == AutoTokenizer.from_pretrained(
        plain / "final"
    )("the fox")
    (done,) = json.loads((plain / "exports.json").read_text())
    assert done["result"].startswith(f"{plain / 'merged'} (float32; log-probs within ")


def test_4_bit_weights_are_merged_as_they_were_rounded(quantized, tmp_path):
    """TRAPS: an adapter that was trained on rounded weights, merged into others."""
    quantizer = Bnb4bit(Bnb4bit.Options())
    result = merge(quantized / "final", tmp_path / "merged", quantizer=quantizer)
    base = load(quantized.parent / "model", quantization_config=quantizer.loading_config())
    quantizer.prepare(base)
    unmerged = log_probs(PeftModel.from_pretrained(base, quantized / "final"))
    merged = load(tmp_path / "merged")
    assert getattr(merged.config, "quantization_config", None) is None
    torch.testing.assert_close(log_probs(merged), unmerged, atol=1e-4, rtol=0)
    whole = merge(quantized / "final", tmp_path / "whole")
    assert (log_probs(load(tmp_path / "whole")) - unmerged).abs().max() > 1e-3
    assert result.difference < 1e-4
    assert whole.difference < 1e-4


def test_8_bit_weights_are_merged_as_they_were_rounded(quantized, tmp_path):
    quantizer = Bnb8bit(Bnb8bit.Options())
    result = merge(quantized / "final", tmp_path / "merged", quantizer=quantizer)
    # Unmerged, activations are rounded to 8 bits, too.
    assert result.difference < 0.1 * result.trained


def test_a_head_that_shares_the_embeddings_weight_is_parted_from_it(tmp_path):
    recipe = project(tmp_path, adapter=True, tie_word_embeddings=True)
    targets = 'adapter.target_modules=["q_proj", "lm_head"]'
    run(recipe, *FAST, targets, 'exporters=[{use="merge"}]')
    unmerged = PeftModel.from_pretrained(load(tmp_path / "model"), tmp_path / "run" / "final")
    merged = load(tmp_path / "run" / "merged")
    torch.testing.assert_close(log_probs(merged), log_probs(unmerged), atol=1e-4, rtol=0)


def test_the_dtype_is_the_bases_or_what_is_asked_for(plain, tmp_path):
    for dtype in ("bfloat16", "auto"):
        result = merge(plain / "final", tmp_path / dtype, dtype=dtype)
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto")
        assert (
            str(saved.dtype) == f"torch.{result.dtype}" == f"torch.{'float32' if dtype == 'auto' else dtype}"
        )


def test_a_merge_that_rounds_the_training_away_is_refused(tmp_path):
    """TRAPS: adapters in bf16 at a learning rate of 5e-7 lose their updates."""
    recipe = project(tmp_path, adapter=True)
    run(recipe, "optimizer.lr=1e-6", "training.steps=3")
    final = tmp_path / "run" / "final"
    with pytest.raises(RunError) as caught:
        merge(final, tmp_path / "merged", dtype="bfloat16")
    assert "nothing was written" in str(caught.value)
    assert 'dtype = "float32"' in str(caught.value)
    assert not (tmp_path / "merged").exists()
    assert merge(final, tmp_path / "merged", dtype="float32").difference < 1e-4


def test_a_merge_into_another_base_is_noticed(plain, tmp_path, monkeypatch):
    """What is loaded again and compared is what was saved."""
    right = merging._merged

    def wrong(base, adapter):
        model = right(base, adapter)
        with torch.no_grad():
            model.lm_head.weight.mul_(1.5)
        return model

    monkeypatch.setattr(merging, "_merged", wrong)
    with pytest.raises(RunError, match="load the adapter on its base instead"):
        merge(plain / "final", tmp_path / "merged")


def test_a_folder_without_an_adapter_is_refused(plain, tmp_path):
    with pytest.raises(RunError, match=r"holds no adapter \(adapter_config\.json is missing\)"):
        merge(plain / "merged", tmp_path / "again")


def test_the_command_takes_the_quantizer_of_the_run(quantized, tmp_path):
    done = dpotrain("merge", str(quantized / "final"), str(tmp_path / "command"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'command'} (float32; log-probs within ")
    merge(quantized / "final", tmp_path / "same", quantizer=Bnb4bit(Bnb4bit.Options()))
    assert torch.equal(log_probs(load(tmp_path / "command")), log_probs(load(tmp_path / "same")))
    again = dpotrain("merge", str(quantized / "final"), str(tmp_path / "command"))
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)
