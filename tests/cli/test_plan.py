"""``dpotrain plan``: memory by part and time, from configurations alone."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.run.recipes import project, run
from tests.support import dpotrain


def planned(recipe, *options: str) -> dict:
    result = dpotrain("plan", str(recipe), "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_reads_no_weights_and_makes_no_run_folder(tmp_path):
    recipe = project(tmp_path)
    (file,) = (tmp_path / "model").glob("*.safetensors")
    nothing = {name: torch.full_like(weight, math.nan) for name, weight in load_file(file).items()}
    save_file(nothing, file, {"format": "pt"})  # a run refuses them
    plan = planned(recipe)
    assert plan["trained_parameters"] == plan["parameters"] == 43168
    assert plan["parts"]["gradients"] == 4 * 43168
    assert not (tmp_path / "run").exists()


def test_pairs_and_steps_are_those_of_the_run(tmp_path):
    recipe = project(tmp_path, adapter=True)
    plan = planned(recipe)
    outcome = run(recipe)
    assert (plan["steps"], plan["pairs"], plan["packed"]) == (outcome.steps, 21, True)
    assert plan["tokens_per_microbatch"] == 1024
    assert plan["finished_run"] is None
    assert planned(recipe)["finished_run"] == outcome.plan


def test_a_checkpoint_in_between_is_written_from_a_copy(tmp_path):
    recipe = project(tmp_path)
    assert "copy of a checkpoint" not in planned(recipe)["parts"]  # one after the last step is not
    plan = planned(recipe, "--set", "checkpoints.every=3")
    assert plan["parts"]["copy of a checkpoint"] == plan["parts"]["gradients"] + plan["parts"]["optimizer"]
    on_a_gpu = planned(recipe, "--set", "checkpoints.every=3", "--memory", "2GB")
    assert "copy of a checkpoint" not in on_a_gpu["parts"]


def test_a_person_sees_a_table_and_facts(tmp_path):
    result = dpotrain("plan", str(project(tmp_path)))
    assert result.exit_code == 0
    for text in (
        "weights",
        "at the peak",
        "43,168 of 43,168 parameters",
        "10 of 5 pairs",
        "more would be no faster",
    ):
        assert text in result.stdout
    assert "It does not fit" not in result.stdout


def test_what_does_not_fit_comes_with_remedies_in_order(tmp_path):
    recipe = project(tmp_path)
    result = dpotrain("plan", str(recipe), "--memory", "601MB")
    assert result.exit_code == 0
    assert "It does not fit" in result.stdout
    plan = planned(recipe, "--memory", "601MB")
    assert not plan["fits"]
    assert plan["seconds"] is None
    assert plan["checkpointed_layers"] == plan["layers"] == 2
    remedies = [remedy["what"] for remedy in plan["remedies"]]
    assert remedies == [
        'optimizer.use = "adamw-8bit"',
        "an [adapter] instead of all weights",
        "[quantizer] of 4 bits, with an [adapter]",
        "data.max_length = 48",
    ]
    assert all(remedy["saves"] > 0 for remedy in plan["remedies"])


def test_a_remedy_saves_what_it_says(tmp_path):
    recipe = project(tmp_path)
    before = planned(recipe, "--memory", "601MB")
    after = planned(recipe, "--memory", "601MB", "--set", 'optimizer.use="adamw-8bit"')
    says = {remedy["what"]: remedy["saves"] for remedy in before["remedies"]}
    assert before["needed"] - after["needed"] == says['optimizer.use = "adamw-8bit"']


def test_quantized_weights_and_a_live_reference_are_counted(tmp_path):
    recipe = project(tmp_path, adapter=True)
    whole = planned(recipe)
    small = planned(recipe, "--set", 'quantizer.use="bnb-4bit"')
    assert small["parts"]["weights"] < whole["parts"]["weights"]
    assert small["parameters"] == whole["parameters"]
    other = ["--set", f"reference.of={str(tmp_path / 'model')!r}", "--set", 'reference.when="live"']
    assert planned(recipe, *other)["parts"]["reference model"] > 4 * 43000


def test_a_gpu_of_that_size_may_hold_more_tokens_at_a_time(tmp_path):
    plan = planned(project(tmp_path), "--memory", "24GiB")
    assert (plan["tokens_per_microbatch"], plan["limit"]) == (65536, "speed")
    assert plan["memory"] == 24 * 2**30


@pytest.mark.parametrize("size", ["much", "0GB", "-3GB", "24XB"])
def test_a_size_that_is_none_is_a_wrong_command_line(size, tmp_path):
    result = dpotrain("plan", "recipe.toml", "--memory", size)
    assert result.exit_code == 2
    assert "write it as 24GB" in result.stderr


def test_a_loader_that_cannot_describe_its_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersLoader, "blueprint", lambda self, request: None)
    result = dpotrain("plan", str(project(tmp_path)))
    assert result.exit_code == 1
    assert 'the loader "transformers" cannot describe' in result.stderr
    assert "Traceback" not in result.stderr


def test_a_quantizer_that_does_not_report_its_bits_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Bnb4bit, "bits", lambda self, model: None)
    recipe = project(tmp_path, adapter=True)
    result = dpotrain("plan", str(recipe), "--set", 'quantizer.use="bnb-4bit"')
    assert result.exit_code == 1
    assert "--set quantizer=false" in result.stderr
