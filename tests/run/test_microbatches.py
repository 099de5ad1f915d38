"""How a run's micro-batches are sized: from free memory at the start, and as before where it is resumed."""

import json

import pytest
import torch

from dpotrain import load_recipe, train
from dpotrain.core.errors import RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.engine.memory import budget, planner
from dpotrain.engine.memory.activations import measure
from dpotrain.engine.memory.model_size import count
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.scorer import PackedScorer
from dpotrain.plugin.api import LoadRequest
from dpotrain.run import microbatches
from dpotrain.run.building import build as building
from dpotrain.run.building import engine_builder
from dpotrain.run.planning import plan, target
from dpotrain_plugins.optimizers import AdamW
from tests.run.recipes import Recording, losses, project, run, weights
from tests.run.test_resume import story


@pytest.fixture
def free(monkeypatch):
    """Sets the memory that runs find for activations."""
    monkeypatch.setattr(planner, "trained_bytes", lambda trained: 0)
    monkeypatch.setattr(planner, "head_bytes", lambda *given: 0)
    monkeypatch.setattr(AdamW, "state_bytes", lambda self, trained: 0)

    def set_to(room: float) -> None:
        monkeypatch.setattr(microbatches, "free_memory", lambda device: int(room / planner.SHARE["cpu"]))

    return set_to


def chosen_at(run, step: int) -> dict:
    state = run / "checkpoints" / f"step-{step:08d}" / "state.json"
    return json.loads(state.read_text())["microbatches"]


@pytest.mark.parametrize("adapter", [False, True])
def test_little_memory_takes_smaller_micro_batches_then_checkpointing_and_the_same_losses(
    adapter, free, tmp_path
):
    recipe = project(tmp_path, adapter=adapter)
    chosen = []
    for number, room in enumerate((1e10, 1.5e6, 0.8e6, 1e5)):
        free(room)
        listening = Recording()
        overrides = [f"run.output_dir={str(tmp_path / str(number))!r}"]
        run(recipe, *overrides, reporter=listening)
        last = chosen_at(tmp_path / str(number), 10)
        chosen.append((last["tokens"], last["checkpointed"]))
        assert f"{last['tokens']:,} tokens a pass" in listening.facts["memory"]
        assert losses(tmp_path / str(number)) == pytest.approx(losses(tmp_path / "0"), abs=1e-5)
    tokens, layers = zip(*chosen, strict=True)
    assert tokens[0] == 1024
    assert tokens[1] < 1024
    assert (layers[0], layers[-1]) == (0, 2)


def test_processes_of_one_machine_share_its_memory(free, monkeypatch, tmp_path):
    recipe = project(tmp_path, adapter=True)
    chosen = []
    for processes, room in ((1, 1.5e6), (2, 1.5e6), (2, 3e6)):
        monkeypatch.setattr(OneProcess, "local_size", processes)
        free(room)
        into = tmp_path / str(len(chosen))
        run(recipe, f"run.output_dir={str(into)!r}", "training.steps=1", "checkpoints.every=1")
        chosen.append(chosen_at(into, 1))
    assert chosen[0] == chosen[2]
    assert (chosen[1]["checkpointed"], -chosen[1]["tokens"]) > (
        chosen[0]["checkpointed"],
        -chosen[0]["tokens"],
    )


@pytest.mark.parametrize("room", [1e10, 1.5e6, 1e5])
def test_a_plan_predicts_what_the_run_chooses(room, free, monkeypatch, tmp_path):
    recipe = load_recipe(project(tmp_path, adapter=True), {"run.cache_dir": False})  # nothing is learned
    free(room)
    train(recipe, reporter=SilentReporter())
    chosen = chosen_at(tmp_path / "run", 10)
    held = count(recipe.adapter.attach(recipe.model.load_model(LoadRequest()))).bytes
    monkeypatch.setattr(target, "resident_memory", lambda: 0)
    monkeypatch.setattr(target, "free_memory", lambda device: held + int(room / planner.SHARE["cpu"]))
    planned = plan.make_plan(recipe, prepare_data(recipe, recipe.model.load_tokenizer(), SilentReporter()))
    assert planned.checkpointed_layers == chosen["checkpointed"]
    assert planned.tokens_per_microbatch == pytest.approx(chosen["tokens"], rel=0.01)
    assert planned.tile_tokens == chosen["tile"]


@pytest.mark.parametrize("adapter", [pytest.param(False, marks=pytest.mark.soak), True])
def test_where_checkpointing_is_not_enough_rows_go_in_tiles_and_losses_stay(
    adapter, free, monkeypatch, tmp_path
):
    recipe = project(tmp_path, adapter=adapter)
    run(recipe, into=tmp_path / "whole")
    monkeypatch.setitem(budget.TILE_TOKENS, "cpu", 16)
    free(1e5)
    listening = Recording()
    run(recipe, reporter=listening)
    assert (chosen_at(tmp_path / "run", 10)["tile"], chosen_at(tmp_path / "run", 10)["checkpointed"]) == (
        16,
        2,
    )
    assert "longer rows in tiles of 16 tokens" in listening.facts["memory"]
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    # A resumed run adds gradients up as it did, whatever is free.
    again = tmp_path / "again"
    run(recipe, into=again, reporter=Recording(stop_at=4))
    free(1e9)
    run(recipe, into=again, resume=True)
    assert weights(again / "final") == weights(tmp_path / "run" / "final")


def test_offloading_on_a_cpu_is_noted_and_changes_nothing(tmp_path):
    recipe, listening = project(tmp_path, adapter=True), Recording()
    run(recipe, "training.steps=3", into=tmp_path / "plain")
    run(recipe, "training.steps=3", "training.activation_offload=true", reporter=listening)
    assert "training.activation_offload = true changes nothing: on a CPU" in "\n".join(listening.notes)
    assert not chosen_at(tmp_path / "run", 3)["on_host"]
    assert weights(tmp_path / "run" / "final") == weights(tmp_path / "plain" / "final")


def test_pairs_that_are_all_long_are_measured_by_their_beginnings(monkeypatch, tmp_path):
    """Recording keeps the activations of all layers; an ordinary forward pass has the logits of every token."""
    probed, recorded = [], []

    def choosing(policy, sample, **more):
        probed.append(max(size.total for size in sample.lengths))
        return choose_scorer(policy, sample, **more)

    def measuring(scorer, one, two, tokens, per_token):
        recorded.append(one.lengths[0].total)
        assert tokens == (len(one.input_ids), len(two.input_ids))
        return measure(scorer, one, two, tokens, per_token)

    monkeypatch.setattr(engine_builder, "PROBE_TOKENS", 16)
    monkeypatch.setitem(planner.MOST_RECORDED_TOKENS, "cpu", 12)
    monkeypatch.setattr(engine_builder, "choose_scorer", choosing)
    monkeypatch.setattr(microbatches, "measure", measuring)
    run(project(tmp_path), "training.steps=1")
    assert 8 < probed[0] <= 16
    assert 6 < recorded[0] <= 12


@pytest.mark.parametrize("fits", ["a quarter", "nothing"])
def test_where_memory_is_too_small_for_measuring_fewer_tokens_are_measured_and_then_none(
    fits, monkeypatch, tmp_path
):
    tried, estimated = [], []

    def measuring(scorer, one, two, tokens, per_token):
        tried.append(tokens[0])
        if fits == "nothing" or len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(scorer, one, two, tokens, per_token)

    monkeypatch.setitem(planner.RECORDED_TOKENS, "cpu", 1024)
    monkeypatch.setattr(microbatches, "measure", measuring)
    estimate = microbatches.estimate
    monkeypatch.setattr(microbatches, "estimate", lambda *given: estimated.append(1) or estimate(*given))
    run(project(tmp_path), "training.steps=1")
    assert tried[1] < 0.5 * tried[0]
    assert estimated == [1] * (fits == "nothing")


@pytest.mark.parametrize("fits", ["a quarter", "nothing"])
def test_where_passes_are_collective_fewer_tokens_are_agreed_upon_before_any_is_measured(
    fits, monkeypatch, tmp_path
):
    """A process that ran out in the middle would leave the others waiting."""
    measured, asked = [], []

    def short(self, *flags):
        asked.append(flags)
        return [fits == "nothing" or len(asked) == 1]  # of another process

    def measuring(scorer, one, two, tokens, per_token):
        measured.append(tokens[0])
        monkeypatch.setattr(OneProcess, "any", any_flags)
        return measure(scorer, one, two, tokens, per_token)

    def fitting(recipe, parallel, *given):
        monkeypatch.setattr(OneProcess, "any", short)
        found = fit(recipe, parallel, *given)
        monkeypatch.setattr(OneProcess, "any", any_flags)
        return found

    any_flags, fit = OneProcess.any, building.fit_to_memory
    monkeypatch.setattr(OneProcess, "collective_passes", True)
    monkeypatch.setitem(planner.RECORDED_TOKENS, "cpu", 1024)
    monkeypatch.setattr(microbatches, "measure", measuring)
    monkeypatch.setattr(building, "fit_to_memory", fitting)
    run(project(tmp_path), "training.steps=1")
    assert asked == [(False,), (False,)]  # this one has room
    assert [tokens < 300 for tokens in measured] == [True] * (fits == "a quarter")


@pytest.mark.parametrize(
    ("sharded", "remedy"), [(False, "raise parallel.context"), (True, r'parallel\.offload = "cpu"')]
)
def test_running_out_in_a_collective_pass_ends_the_run_with_what_would_help(
    sharded, remedy, monkeypatch, tmp_path
):
    def measuring(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(OneProcess, "collective_passes", True)
    monkeypatch.setattr(microbatches, "measure", measuring)

    def fitting(recipe, parallel, *given):
        monkeypatch.setattr(OneProcess, "shards_weights", sharded)
        return fit(recipe, parallel, *given)

    fit = building.fit_to_memory
    monkeypatch.setattr(building, "fit_to_memory", fitting)
    with pytest.raises(RunError, match=rf"(?s)cpu is out of memory \(CUDA out of memory\) while .*{remedy}"):
        run(project(tmp_path), "training.steps=1")


def test_memory_is_measured_on_compiled_layers(monkeypatch, tmp_path):
    done = []
    fit = building.fit_to_memory
    monkeypatch.setattr(building, "check_compiler", lambda device: None)
    monkeypatch.setattr(engine_builder, "compile_scorer", lambda *given: done.append("compiled"))
    monkeypatch.setattr(building, "fit_to_memory", lambda *given: done.append("measured") or fit(*given))
    run(project(tmp_path), "training.steps=1", "training.compile=true")
    assert done == ["compiled", "measured"]


def test_a_resumed_run_has_the_same_micro_batches_whatever_is_free(free, tmp_path):
    recipe = project(tmp_path, adapter=True)
    free(1e6)
    run(recipe)
    overrides = [f"run.output_dir={str(tmp_path / 'again')!r}"]
    run(recipe, *overrides, reporter=Recording(stop_at=4))
    free(1e9)
    run(recipe, *overrides, resume=True)
    assert chosen_at(tmp_path / "again", 10) == chosen_at(tmp_path / "run", 10)
    assert weights(tmp_path / "again" / "final") == weights(tmp_path / "run" / "final")
    assert story(tmp_path / "again") == story(tmp_path / "run")


def test_what_no_longer_fits_is_chosen_again(free, tmp_path):
    recipe = project(tmp_path, adapter=True)
    free(1e9)
    run(recipe, reporter=Recording(stop_at=4))
    free(1e6)
    run(recipe, resume=True)
    assert chosen_at(tmp_path / "run", 10)["tokens"] < chosen_at(tmp_path / "run", 4)["tokens"] == 1024


def test_a_resumed_run_may_ask_for_something_else(tmp_path):
    recipe = project(tmp_path)
    run(recipe, reporter=Recording(stop_at=4))
    other = ["training.tokens_per_microbatch=70", "training.activation_checkpointing=1"]
    run(recipe, *other, resume=True)
    assert (chosen_at(tmp_path / "run", 10)["tokens"], chosen_at(tmp_path / "run", 10)["checkpointed"]) == (
        70,
        1,
    )


def small_device(monkeypatch, tokens: int) -> None:
    """Scorers with gradients run out of memory beyond so many tokens."""
    forward = PackedScorer.forward

    def limited(self, batch):
        if torch.is_grad_enabled() and len(batch.input_ids) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, batch)

    monkeypatch.setattr(PackedScorer, "forward", limited)


def test_a_run_that_runs_out_of_memory_goes_on_and_resumes_with_less(monkeypatch, tmp_path):
    recipe = project(tmp_path, adapter=True)
    small_device(monkeypatch, 160)
    listening = Recording()
    run(recipe, reporter=listening)
    said = [note for note in listening.notes if "memory ran out" in note]
    assert 1 <= len(said) <= 2
    reduced = chosen_at(tmp_path / "run", 10)["tokens"]
    assert reduced <= 160
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    overrides = [f"run.output_dir={str(tmp_path / 'again')!r}"]
    run(recipe, *overrides, reporter=Recording(stop_at=7))
    run(recipe, *overrides, resume=True)
    assert weights(tmp_path / "again" / "final") == weights(tmp_path / "run" / "final")


def test_a_pair_that_does_not_fit_ends_the_run_with_remedies(monkeypatch, tmp_path):
    recipe = project(tmp_path)
    small_device(monkeypatch, 100)
    with pytest.raises(RunError, match=r"(?s)cpu is out of memory .*tokens_per_microbatch.*dpotrain plan"):
        run(recipe)
    assert "out of memory" in json.loads((tmp_path / "run" / "summary.json").read_text())["error"]


def test_the_summary_holds_predicted_and_measured_memory(tmp_path):
    outcome = run(project(tmp_path))
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["plan"]
    assert kept == outcome.plan
    assert kept["peak_memory_mb_measured"] == outcome.peak_memory_mb
    assert kept["peak_memory_mb_predicted"] == pytest.approx(outcome.peak_memory_mb, rel=0.25)
    assert kept.keys() == {
        "peak_memory_mb_predicted",
        "peak_memory_mb_measured",
        "tokens_per_second_measured",
    }
