"""Measuring before and after leaves no trace in the run, and survives a resumed one."""

import json
import random

import numpy as np
import pytest
import torch

from dpotrain.core.records import Outcome, Run
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.demo.sampling import sample_replies
from dpotrain_plugins.demo.source import DemoSource

COUNT = 24


@pytest.fixture(scope="module")
def loader():
    return DemoLoader(DemoLoader.Options())


@pytest.fixture(scope="module")
def model(loader):
    return loader.load_model(LoadRequest())


@pytest.fixture(scope="module")
def tokenizer(loader):
    return loader.load_tokenizer()


@pytest.fixture
def source():
    return DemoSource(DemoSource.Options(samples=COUNT))


@pytest.fixture
def make_run(tmp_path, model, tokenizer):
    def make(notes: list[str] | None = None, **changes) -> Run:
        facts = {"policy": model, "resumed_from": 0} | changes
        return Run(
            folder=tmp_path,
            config={},
            tokenizer=tokenizer,
            device=torch.device("cpu"),
            seed=0,
            total_steps=10,
            train_pairs=8,
            eval_pairs=2,
            note=(notes if notes is not None else []).append,
            **facts,
        )

    return make


def _ended(run: Run, status: str = "finished") -> Outcome:
    return Outcome(status=status, steps=10, folder=run.folder, final=None)


def test_an_untrained_policy_measures_the_same_before_and_after(source, make_run):
    notes: list[str] = []
    run = make_run(notes)
    source.dpotrain_run_started(run=run)
    source.dpotrain_run_finished(run=run, outcome=_ended(run))
    demo = run.sections["demo"]
    assert 0.2 < demo["preferred_before"] == demo["preferred_after"] < 0.8
    assert demo["answered_before"] == demo["answered_after"] > 0.7
    assert (demo["preferred_style"], demo["sampled_replies"]) == ("courteous", COUNT)
    assert demo["table"]["columns"] == ["request", "before", "after"]
    assert len(demo["table"]["rows"]) == 3
    assert all(before == after for _, before, after in demo["table"]["rows"])
    assert len(notes) == 2
    assert "are courteous" in notes[0]
    json.dumps(demo)


def test_sampling_leaves_every_random_state_and_the_policy_as_they_were(source, make_run, model):
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(20)  # no state that an earlier sampling may have left
    states = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    source.dpotrain_run_started(run=make_run())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert model.training


def test_a_resumed_run_reports_the_share_of_the_policy_it_began_with(source, make_run):
    first = make_run()
    source.dpotrain_run_started(run=first)
    # No policy at all: whatever is reported cannot have been sampled from it.
    resumed = make_run(policy=None, resumed_from=5)
    DemoSource(source.options).dpotrain_run_started(run=resumed)
    assert resumed.sections == first.sections


@pytest.mark.parametrize(
    "kept", [None, "", "{}", '[{"request": "of another run", "before": "Nine."}]', "[1]"]
)
def test_a_resumed_run_without_its_first_replies_says_so_and_still_measures_the_end(source, make_run, kept):
    notes: list[str] = []
    run = make_run(notes, resumed_from=5)
    if kept is not None:
        (run.folder / "demo.json").write_text(kept)
    source.dpotrain_run_started(run=run)
    assert "demo.json" in notes[0]
    source.dpotrain_run_finished(run=run, outcome=_ended(run))
    assert "preferred_after" in run.sections["demo"]
    assert not {"preferred_before", "table"} & set(run.sections["demo"])


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_only_a_finished_run_is_measured_again(source, make_run, status):
    run = make_run()
    source.dpotrain_run_started(run=run)
    source.dpotrain_run_finished(run=run, outcome=_ended(run, status))
    assert "preferred_before" in run.sections["demo"]
    assert "preferred_after" not in run.sections["demo"]


def test_no_samples_is_no_experiment(make_run):
    source = DemoSource(DemoSource.Options(samples=0))
    run = make_run(policy=None)
    source.dpotrain_run_started(run=run)
    source.dpotrain_run_finished(run=run, outcome=_ended(run))
    assert run.sections == {}
    assert not list(run.folder.iterdir())


def test_a_policy_with_an_adapter_is_sampled_with_it(model, tokenizer, loader):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(loader.load_model(LoadRequest()), LoraConfig(r=4, target_modules="all-linear"))
    asked = ["Where are the spoons?", "Good morning. What is the capital of Norway?"]
    assert sample_replies(wrapped, tokenizer, asked, 3) == sample_replies(model, tokenizer, asked, 3)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    assert sample_replies(wrapped, tokenizer, asked, 3) != sample_replies(model, tokenizer, asked, 3)
