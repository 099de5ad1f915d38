"""The router loss in whole runs: the same however steps are cut, on one process and on two, and after a resumption."""

import json
from pathlib import Path

import pytest

from dpotrain.core.errors import RunError
from dpotrain.engine.scoring.router_loss import RouterLoss
from tests.run.crashing import SPEED
from tests.run.recipes import Recording, project, records, run, weights
from tests.support import dpotrain

CHOSEN = ["training.router_loss_weight=0.5", "training.epochs=1", "evaluation.every=2", "checkpoints.every=3"]


def numbers(run: Path, *names: str) -> list[float]:
    return [record[name] for kind in ("train", "eval") for record in records(run, kind) for name in names]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """A recipe whose run is done: one micro-batch a step."""
    recipe = project(tmp_path_factory.mktemp("mixture"), kind="mixtral")
    run(recipe, *CHOSEN)
    return recipe


@pytest.mark.parametrize(
    "way",
    [
        ["training.tokens_per_microbatch=60", "training.activation_checkpointing=true"],
        ['training.packing="off"', "training.tokens_per_microbatch=150", 'reference.when="live"'],
    ],
    ids=["checkpointed", "padded"],
)
def test_it_is_the_same_however_a_step_is_cut(mixture, way, tmp_path):
    run(mixture, *CHOSEN, *way, into=tmp_path / "run")
    both = ("loss", "router_loss")
    assert numbers(tmp_path / "run", *both) == pytest.approx(numbers(mixture.parent / "run", *both), abs=1e-5)


@pytest.mark.parametrize(
    "cut",
    [pytest.param([], marks=pytest.mark.soak), ["training.tokens_per_microbatch=60"]],
    ids=["one", "several"],
)
def test_it_is_the_same_in_two_processes_that_are_resumed(mixture, cut, forked, tmp_path):
    """With one micro-batch a rank, and with several, of which one may be a filler."""
    overrides = [*CHOSEN, *cut, f"run.output_dir={str(tmp_path / 'run')!r}"]
    stopped = forked.ranks(mixture, overrides, acts=[[0, "signal_after", 2, "SIGTERM"]])
    assert [each.code for each in stopped] == [75, 75], stopped[0].output
    assert [each.code for each in forked.ranks(mixture, overrides)] == [0, 0]
    both = ("loss", "router_loss")
    assert numbers(tmp_path / "run", *both) == pytest.approx(numbers(mixture.parent / "run", *both), abs=1e-5)


def test_a_resumed_run_ends_in_the_same_weights_and_records(mixture, forked, tmp_path):
    own = [*CHOSEN, "logging.every=3", "training.tokens_per_microbatch=60"]
    run(mixture, *own, into=tmp_path / "whole")
    parted = [*own, f"run.output_dir={str(tmp_path / 'parted')!r}"]
    assert forked.run(mixture, parted, acts=[["signal_after", 2, "SIGTERM"]]).code == 75
    assert forked.run(mixture, parted).code == 0
    assert weights(tmp_path / "parted" / "final") == weights(tmp_path / "whole" / "final")
    first, second = (
        [
            {name: value for name, value in record.items() if name not in SPEED}
            for kind in ("train", "eval")
            for record in records(tmp_path / name, kind)
        ]
        for name in ("whole", "parted")
    )
    assert first == second
    assert "router_loss" in first[0]


def test_the_models_configuration_decides_unless_the_recipe_does(tmp_path):
    recipe = project(tmp_path, kind="mixtral", router_aux_loss_coef=0.03)
    shown = Recording()
    run(recipe, "training.steps=1", "training.tokens_per_microbatch=60", reporter=shown)
    assert shown.facts["loss"] == (
        "dpo, beta 0.1, router loss with weight 0.03: one forward more in steps of several micro-batches"
    )
    assert "router_loss" in records(tmp_path / "run")[0]
    run(recipe, "training.steps=1", "training.router_loss_weight=0", into=tmp_path / "without")
    assert "router_loss" not in records(tmp_path / "without")[0]
    assert "router_loss" not in records(tmp_path / "without", "eval")[0]


def test_a_plan_counts_the_first_pass_and_what_routers_keep(tmp_path):
    recipe = project(tmp_path, kind="mixtral")

    def planned(*overrides: str, devices: int = 1) -> dict:
        words = [word for each in overrides for word in ("--set", each)]
        result = dpotrain("plan", str(recipe), "--json", "--devices", str(devices), *words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    cut = "training.tokens_per_microbatch=100"
    without, within = planned(cut, "training.router_loss_weight=0"), planned(cut)
    # The last step of each epoch has one pair, and one micro-batch.
    assert without["first_passes"] == 0.0
    assert 0.9 < within["first_passes"] < 1.0
    assert within["parts"]["activations"] > without["parts"]["activations"]
    assert within["duration"]["training"] > 0
    assert planned("training.tokens_per_microbatch=10000")["first_passes"] == 0.0
    # Several data ranks are several micro-batches.
    assert planned("training.tokens_per_microbatch=10000", devices=2)["first_passes"] == 1.0
    shown = dpotrain("plan", str(recipe), "--set", cut).output
    assert "micro-batches a step, scored twice" in " ".join(shown.split())


def test_a_model_without_routers_is_refused_by_check_plan_and_run(tmp_path):
    recipe = project(tmp_path)
    for command in ("check", "plan"):
        result = dpotrain(command, str(recipe), "--set", "training.router_loss_weight=0.1")
        assert result.exit_code == 1
        assert "transformers has no load-balancing loss for LlamaForCausalLM" in " ".join(
            result.output.split()
        )
    with pytest.raises(RunError, match=r"training\.router_loss_weight = 0\.1, but transformers has no"):
        run(recipe, "training.router_loss_weight=0.1")


def test_a_mixture_whose_loss_cannot_be_computed_is_trained_without_unless_the_recipe_asks(
    tmp_path, monkeypatch
):
    recipe = project(tmp_path, kind="mixtral")
    monkeypatch.setattr(RouterLoss, "fault", lambda *_: "it is another")
    shown = Recording()
    run(recipe, "training.steps=1", reporter=shown)
    assert "MixtralForCausalLM is trained without a router loss: it is another" in shown.warnings
    assert "router_loss" not in records(tmp_path / "run")[0]
    with pytest.raises(
        RunError, match="MixtralForCausalLM cannot be trained with a router loss: it is another"
    ):
        run(recipe, "training.router_loss_weight=0.1", into=tmp_path / "other")


def test_the_best_checkpoint_may_be_the_best_balanced_one(mixture, tmp_path):
    best = ["checkpoints.best=router_loss", "checkpoints.best_is=lowest", "evaluation.first=false"]
    run(mixture, "training.steps=1", *best, into=tmp_path / "run")
    with pytest.raises(RunError, match='"router_loss" is not a metric'):
        run(
            mixture, "training.steps=1", "checkpoints.best=router_loss", "evaluation.first=false",
            "training.router_loss_weight=0", into=tmp_path / "none",
        )  # fmt: skip
