"""``dpotrain plan``: memory by part and time, from configurations alone."""

import json
import math
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpotrain.recipe.load import load_recipe
from dpotrain.run.planning.remedies import half_lengths, smaller_optimizer
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


@pytest.mark.soak
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
        "peak memory",
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


@pytest.mark.parametrize(("most", "of_prompt"), [(96, 80), (96, 95), (97, 96), (96, 1), (4, 3)])
def test_half_the_lengths_go_together(tmp_path, most, of_prompt):
    recipe = project(tmp_path)
    own = [f"data.max_length={most}", f"data.max_prompt_length={of_prompt}"]
    halved = half_lengths(load_recipe(recipe, own))
    data = load_recipe(recipe, own + [f"{key}={value}" for key, value in halved.items()]).data
    assert (data.max_length, data.max_prompt_length) == (most // 2, max(1, min(of_prompt, most - 2) // 2))


@pytest.mark.soak
def test_a_remedy_saves_what_it_says(tmp_path):
    recipe = project(tmp_path)
    before = planned(recipe, "--memory", "601MB")
    after = planned(recipe, "--memory", "601MB", "--set", 'optimizer.use="adamw-8bit"')
    says = {remedy["what"]: remedy["saves"] for remedy in before["remedies"]}
    assert before["needed"] - after["needed"] == says['optimizer.use = "adamw-8bit"']


def test_moments_in_bfloat16_take_half_the_memory_and_a_smaller_optimizer_is_still_proposed(tmp_path):
    recipe = project(tmp_path)
    before = planned(recipe)
    text = recipe.read_text()
    recipe.write_text(text.replace("[optimizer]", '[optimizer]\nstate_dtype = "bfloat16"'))
    assert recipe.read_text() != text
    after = planned(recipe)
    assert after["parts"]["optimizer"] == pytest.approx(before["parts"]["optimizer"] / 2, rel=0.01)
    smaller = smaller_optimizer(load_recipe(recipe))
    # As the recipe has it with what is proposed.
    assert smaller.options == load_recipe(recipe, ["optimizer.use=adamw-8bit"]).optimizer.options


@pytest.mark.soak
def test_pages_of_an_optimizer_take_no_memory_of_a_gpu_and_all_of_a_cpu_and_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("dpotrain_plugins.optimizers.adamw._SMALLEST_PAGED", 4096)
    recipe, paged = project(tmp_path), ["--set", "optimizer.use=adamw-8bit-paged"]
    plain = ["--set", "optimizer.use=adamw-8bit"]
    assert planned(recipe, *paged)["parts"]["optimizer"] == planned(recipe, *plain)["parts"]["optimizer"]
    there, all_there = (planned(recipe, *which, "--memory", "2GB") for which in (paged, plain))
    assert there["parts"]["optimizer"] < 0.9 * all_there["parts"]["optimizer"]
    assert there["disk"] == all_there["disk"]


@pytest.mark.soak
def test_quantized_weights_and_a_live_reference_are_counted(tmp_path):
    recipe = project(tmp_path, adapter=True)
    whole = planned(recipe)
    small = planned(recipe, "--set", 'quantizer.use="bnb-4bit"')
    assert small["parts"]["weights"] < whole["parts"]["weights"]
    assert small["parameters"] == whole["parameters"]
    other = ["--set", f"reference.of={str(tmp_path / 'model')!r}", "--set", 'reference.when="live"']
    assert planned(recipe, *other)["parts"]["reference model"] > 4 * 43000


@pytest.mark.soak
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_reference_that_moves_is_a_copy_of_what_is_trained_in_memory_and_in_checkpoints(adapter, tmp_path):
    recipe = project(tmp_path, adapter=adapter)
    every = ["--set", "checkpoints.every=3", "--set", "evaluation.every=5"]
    still = planned(recipe, *every)
    moving = planned(recipe, *every, "--set", "reference.update={every=2, share=0.6}")
    trained = 4 * still["trained_parameters"]
    assert moving["parts"]["reference model"] == trained
    assert "reference model" not in still["parts"]
    copied = [plan["parts"]["copy of a checkpoint"] for plan in (moving, still)]
    assert copied[0] - copied[1] == trained
    checkpoints = [plan["disk"]["4 checkpoints"] for plan in (moving, still)]
    assert checkpoints[0] - checkpoints[1] == 4 * trained
    # Held-out log-probs of the reference are computed again in every evaluation.
    assert moving["duration"]["evaluation"] == pytest.approx(moving["duration"]["first_evaluation"])
    assert moving["duration"]["reference"] == 0.0


def test_a_gpu_of_that_size_may_hold_more_tokens_at_a_time(tmp_path):
    plan = planned(project(tmp_path), "--memory", "24GiB")
    assert (plan["tokens_per_microbatch"], plan["limit"]) == (65536, "speed")
    assert plan["memory"] == 24 * 2**30


def test_a_plain_size_is_in_gigabytes(tmp_path):
    recipe = project(tmp_path)
    assert planned(recipe, "--memory", "24")["memory"] == 24 * 2**30
    assert planned(recipe, "--memory", "1073741824B")["memory"] == 2**30


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


def least(recipe) -> int:
    """Return the bytes on a GPU of a recipe that says nothing of micro-batches or checkpointing: with the smallest."""
    small = ["--set", "training.tokens_per_microbatch=1", "--set", "training.activation_checkpointing=true"]
    return planned(recipe, "--memory", "24GB", *small)["needed"]


def test_the_smallest_set_of_changes_is_a_command_with_which_it_fits(tmp_path):
    recipe = project(tmp_path)
    needed = least(recipe)
    # A little less than what it takes: one change is enough, and it is not the first of the list.
    size = f"{(needed - 100_000) / 2**20}MB"
    result = dpotrain("plan", str(recipe), "--memory", size)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("  dpotrain run ")]
    words = shlex.split(line)
    assert words[:3] == ["dpotrain", "run", str(recipe)]
    assert words[3:] == ["--set", "optimizer.use=adamw-8bit"]
    assert planned(recipe, "--memory", size, *words[3:])["fits"]
    assert "they change what is computed" in result.stdout


def test_changes_that_leave_results_as_they_are_come_first(tmp_path):
    recipe = project(tmp_path)
    fixed = [
        "--set",
        "training.tokens_per_microbatch=100000",
        "--set",
        "training.activation_checkpointing=false",
    ]
    needed = planned(recipe, "--memory", "24GB", *fixed)["needed"]
    plan = planned(recipe, "--memory", f"{(needed - 10_000) / 2**20}MB", *fixed)
    assert plan["changes"] == {"overrides": ["training.tokens_per_microbatch=auto"], "same_results": True}


def test_where_nothing_is_enough_each_change_is_listed(tmp_path):
    plan = planned(project(tmp_path), "--memory", "100MB")
    assert (plan["fits"], plan["changes"]) == (False, None)
    assert plan["remedies"]


def test_the_smallest_gpus_that_would_do(tmp_path, monkeypatch):
    recipe = project(tmp_path)
    assert planned(recipe)["gpus"] == {"as_is": 8, "with_changes": None, "changes": None}
    needed = least(recipe)
    # A GPU of "8 GB" is just too small now, and all larger ones are not.
    monkeypatch.setattr("dpotrain.run.planning.plan.GIGABYTE", (needed - 100_000) // 8)
    gpus = planned(recipe)["gpus"]
    assert (gpus["as_is"], gpus["with_changes"]) == (12, 8)
    assert gpus["changes"] == {"overrides": ["optimizer.use=adamw-8bit"], "same_results": False}


def test_it_learns_from_runs_and_says_so(tmp_path):
    recipe = project(tmp_path)
    cache = ["--set", f"run.cache_dir={str(tmp_path / 'cache')!r}"]
    before = planned(recipe, *cache)
    assert before["measured_runs"] == 0
    assert before["duration"]["loading"] is None
    outcome = run(recipe, cache[1])
    after = planned(recipe, *cache)
    assert after["measured_runs"] == 1
    assert after["tokens_per_second"] == pytest.approx(outcome.tokens_per_second, rel=1e-6)
    assert after["needed"] / 2**20 == pytest.approx(outcome.peak_memory_mb, rel=0.05)
    assert after["duration"]["loading"] > 0
    assert "as 1 run of this model here measured them" in dpotrain("plan", str(recipe), *cache).stdout
    # Of another model, or none of this machine's device, nothing is learned.
    assert planned(recipe, *cache, "--set", 'adapter.use="lora"')["measured_runs"] == 0
    assert planned(recipe, *cache, "--memory", "24GB")["measured_runs"] == 0


def test_time_and_disk_are_counted_by_part(tmp_path):
    recipe = project(tmp_path)
    plan = planned(recipe, "--set", "evaluation.every=3", "--set", "checkpoints.every=2")
    assert plan["steps"] == 10
    assert plan["duration"]["evaluations"] == 5  # before, after steps 3, 6 and 9, and at the end
    # Three are kept, the best, and the one that is being written.
    assert plan["disk"]["5 checkpoints"] == 5 * (plan["parts"]["gradients"] + plan["parts"]["optimizer"])
    assert plan["disk"]["final"] == plan["parts"]["weights"]
    assert plan["fits_disk"]
    run(recipe, "evaluation.every=3", "checkpoints.every=2")
    saved = [
        sum(file.stat().st_size for file in place.iterdir())
        for place in (tmp_path / "run/checkpoints").iterdir()
    ]
    assert max(saved) == pytest.approx(plan["disk"]["5 checkpoints"] / 5, rel=0.1)


@pytest.mark.soak
def test_evaluations_and_samples_are_counted_as_the_recipe_sets_them(tmp_path):
    recipe = project(tmp_path)
    more = [
        "--set",
        'samples.prompts=["one", "two"]',
        "--set",
        "samples.every=2",
        "--set",
        "evaluation.every=2",
    ]
    time = planned(recipe, *more)["duration"]
    assert (time["evaluations"], time["samples"]) == (
        6,
        4,
    )  # answers: before, after steps 4 and 8, and at the end
    assert time["sample"] > 0
    outcome = run(recipe, *more[1::2])
    lines = (outcome.folder / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 4, 8, 10]
    without = planned(recipe, "--set", "evaluation.first=false", "--set", "evaluation.pairs=1")["duration"]
    assert (without["evaluations"], without["samples"]) == (1, 0)
    # By the training of the same plan: each plan measures the machine anew.
    shares = [each["evaluation"] / each["training"] for each in (time, without)]
    assert shares[1] == pytest.approx(shares[0] / 2, rel=0.5)


def test_several_devices_share_a_run_and_every_layout_has_a_row(tmp_path):
    recipe = project(tmp_path)
    plan = planned(recipe, "--devices", "8", "--memory", "80")
    devices = plan["devices"]
    assert (devices["count"], devices["layout"]) == (8, "replicated")
    assert plan["memory"] == 80 * 2**30
    ways = {way["layout"]: way for way in devices["ways"]}
    assert list(ways) == [
        "replicated",
        "sharded over groups of 4",
        "sharded over all 8",
        "sharded over all 8, shards in the host's memory",
        "replicated, context of 2",
        "sharded over all 8, context of 2",
    ]
    # Gradients of 43,168 numbers in float32, added up by a ring of 8.
    assert ways["replicated"]["exchange"]["added_up"] == 2 * 7 / 8 * 4 * 43168
    assert ways["sharded over all 8"]["overrides"] == ["parallel.shard=all"]
    unknown = [name for name, way in ways.items() if way["tokens_per_second"] is None]
    assert unknown == ["sharded over all 8, shards in the host's memory"]
    assert plan["tokens_per_second"] == pytest.approx(ways["replicated"]["tokens_per_second"])
    result = dpotrain("plan", str(recipe), "--devices", "8", "--memory", "80")
    for text in (
        "memory of each device",
        "over 8 devices",
        "sharded over groups of 4",
        "as it is",
        "links",
        "unknown",
    ):
        assert text in result.stdout


def test_without_a_size_devices_are_such_as_this_machine_has(tmp_path):
    recipe = project(tmp_path)
    plan = planned(recipe, "--devices", "2")
    assert plan["device"] == "this machine's CPU, for each of 2 processes"
    assert plan["devices"]["layout"] == "replicated"
    assert plan["speed_from"] in ("estimated", "measured")
    assert "available on this machine's CPU" in dpotrain("plan", str(recipe), "--devices", "2").stdout
    # One device is planned as ever.
    one = planned(recipe, "--devices", "1")
    assert one["devices"] is None
    assert 0.3 * one["memory"] < plan["memory"] < 0.7 * one["memory"], "processes share the machine's memory"


def test_speed_and_links_may_be_given(tmp_path):
    recipe = project(tmp_path)
    words = ["--devices", "2", "--memory", "24"]
    named, number = (planned(recipe, *words, "--link", link) for link in ("pcie", "20 GB/s"))
    assert named["devices"]["links"] == number["devices"]["links"]
    slow, fast = (planned(recipe, *words, "--tflops", each) for each in ("0.001", "0.002"))
    assert fast["tokens_per_second"] == pytest.approx(2 * slow["tokens_per_second"], rel=0.01)
    assert (fast["operations"], fast["speed_from"]) == (2e9, "given")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--link", "fast", "--devices", "2"],
            "write GB a second, such as 25, or one of nvlink, network, pcie",
        ),
        (["--link", "0", "--devices", "2"], "is not a rate"),
        (["--link", "25"], "give --devices, too"),
        (["--devices", "0"], "--devices"),
        (["--tflops", "0"], "--tflops"),
    ],
)
def test_a_wrong_word_about_devices_is_a_wrong_command_line(words, text):
    result = dpotrain("plan", "recipe.toml", *words)
    assert result.exit_code == 2
    assert text in result.stderr
