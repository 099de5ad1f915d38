"""Each pair on several processes (parallel.context): the losses of one process, whatever the run is made of."""

import json
from pathlib import Path

import pytest

from dpotrain.core.errors import ProcessLostError, RecipeError
from dpotrain.engine.parallel.start import start
from dpotrain.engine.reference.store import RECORD
from tests.run.recipes import losses, project, records, run
from tests.run.test_failing_ranks import FAST
from tests.run.test_resume_matrix import into

soak = pytest.mark.soak

#: Micro-batches of several pairs, and several of them a step; held-out pairs, a metric, a checkpoint in between.
ALWAYS = [
    *("training.tokens_per_microbatch=120", "training.epochs=1", "evaluation.every=2", "checkpoints.every=2"),
    "metrics.0.use=length",
    'samples={prompts=["the fox", "bread"], max_tokens=4}',
]
LIVE = ['reference.when="live"']
STORED = ['reference.when="precomputed"', "run.cache_dir=false"]  # where another run's would be found
TOKENS = ['loss.use="sft"', 'loss.per="token"']
COUPLED = ['loss.use="mix"', 'loss.terms=[{use="dpo"}, {use="bco"}, {use="sft", per="token", weight=0.1}]']
CHECKPOINTED = ["training.activation_checkpointing=true"]
SHARDED = ['parallel.shard="all"']
GROUPS = [*SHARDED, "parallel.group=2"]

#: What a run trains and how, by how many processes; two of them share each pair, and groups of them the weights.
WAYS = [
    ("lora", 2, LIVE),
    *(("full", 2, how) for how in (LIVE, STORED, TOKENS, COUPLED, CHECKPOINTED)),
    *(("full", 4, how) for how in (LIVE, TOKENS, CHECKPOINTED)),
    *(("lora", 2, how) for how in (STORED, COUPLED, CHECKPOINTED)),
    *(("lora", 4, how) for how in (LIVE, COUPLED)),
    ("full", 2, [*SHARDED, *STORED]),
    ("full", 4, [*SHARDED, *COUPLED]),
    *((what, 4, [*GROUPS, *LIVE]) for what in ("lora", "full")),
    *(("mixture of experts", ranks, ["training.router_loss_weight=0.5"]) for ranks in (2, 4)),
]
QUICK = [("lora", 2, LIVE)]


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> dict[str, Path]:
    def one(name: str, **more) -> Path:
        return project(tmp_path_factory.mktemp(name), **more)

    return {
        "lora": one("lora", adapter=True),
        "full": one("full"),
        "mixture of experts": one("experts", kind="mixtral"),
    }


def first_line(file: Path) -> dict:
    return json.loads(file.read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("what", "ranks", "how"),
    [
        pytest.param(what, ranks, how, marks=[soak] * ((what, ranks, how) not in QUICK))
        for what, ranks, how in WAYS
    ],
)
def test_losses_and_evaluations_are_those_of_one_process(what, ranks, how, projects, forked, tmp_path):
    recipe = projects[what]
    run(recipe, *ALWAYS, *how, into=tmp_path / "one")
    ended = forked.ranks(
        recipe, [*ALWAYS, *how, "parallel.context=2", into(tmp_path / "several")], ranks=ranks
    )
    assert [each.code for each in ended] == [0] * ranks, ended
    assert f"{ranks} processes, each pair on 2 of them" in ended[0].output
    one, several = tmp_path / "one", tmp_path / "several"
    assert len(losses(several)) == len(losses(one)) == 5
    for kind in ("train", "eval"):
        assert [each["step"] for each in records(several, kind)] == [
            each["step"] for each in records(one, kind)
        ]
        for mine, theirs in zip(records(several, kind), records(one, kind), strict=True):
            assert mine.keys() == theirs.keys()
            exact = ["loss", "router_loss", "length/margins", "length/chosen_tokens"]
            if mine["step"] > 1:  # before the first update rounding decides
                exact.append("rewards/accuracies")
            for name in exact:
                assert mine.get(name) == pytest.approx(theirs.get(name), abs=1e-5), (kind, name)
            for name in ("rewards/margins", "logps/chosen", "logps/rejected"):
                assert mine[name] == pytest.approx(theirs[name], abs=1e-4), (kind, name)
            if kind == "train":
                assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    # Before training, where rounding decides no token.
    assert first_line(several / "samples.jsonl")["samples"] == first_line(one / "samples.jsonl")["samples"]
    assert json.loads((several / "summary.json").read_text())["status"] == "finished"


@soak
def test_a_stored_reference_is_found_and_verified_by_the_processes_that_share_a_pair(
    projects, forked, tmp_path
):
    """The main process alone could not compute a pair."""
    shared = [*ALWAYS, *STORED, "parallel.context=2", f"reference.store={str(tmp_path / 'store')!r}"]
    for name in ("first", "second"):
        ended = forked.ranks(projects["full"], [*shared, into(tmp_path / name)])
        assert [each.code for each in ended] == [0, 0], ended
    assert losses(tmp_path / "second") == pytest.approx(losses(tmp_path / "first"), abs=1e-6)
    (folder,) = (tmp_path / "store").iterdir()
    # Each pair once: not by both processes that computed it.
    assert sum(path.stat().st_size for path in folder.glob("*.pairs")) == 23 * RECORD.itemsize


@soak
def test_a_run_goes_on_with_another_number_of_processes_to_a_pair(projects, forked, tmp_path):
    whole = forked.run(projects["lora"], [*ALWAYS, into(tmp_path / "whole")])
    assert whole.code == 0, whole
    run_of = [*ALWAYS, into(tmp_path / "run")]
    stopped = forked.ranks(
        projects["lora"], [*run_of, "parallel.context=2"], acts=[[1, "signal_after", 1, "SIGTERM"]]
    )
    assert [each.code for each in stopped] == [75, 75], stopped
    assert forked.run(projects["lora"], run_of).code == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


@pytest.mark.parametrize(
    ("place", "before", "step"),
    [pytest.param("step", 1, 0, marks=soak), pytest.param("evaluation", 1, 0, marks=soak)],
)
def test_a_signal_to_one_of_them_stops_both_at_the_same_micro_batch(
    place, before, step, projects, forked, tmp_path
):
    acts = [*FAST, [1, "fails_in", place, "signal", before]]
    overrides = [*ALWAYS, "parallel.context=2", into(tmp_path)]
    ended = forked.ranks(projects["lora"], overrides, acts=acts)
    assert [each.code for each in ended] == [75, 75], ended
    assert f"stopped after step {step} " in ended[0].told


@pytest.mark.parametrize(
    ("place", "how"),
    [
        pytest.param(place, how, marks=soak)
        for place in ("step", "evaluation")
        for how in ("memory", "raise", "exit")
    ],
)
def test_one_that_cannot_go_on_ends_the_other_with_its_message(place, how, projects, forked, tmp_path):
    """The other waits for it inside a pass; no step is done again."""
    acts = [*FAST, [1, "fails_in", place, how, 1]]
    ended = forked.ranks(projects["lora"], [*ALWAYS, "parallel.context=2", into(tmp_path)], acts=acts)
    lost = ProcessLostError.exit_code
    assert [each.code for each in ended] == ([lost, 9] if how == "exit" else [1, 1]), ended
    said = {"memory": "is out of memory", "raise": f"broken in the {place}", "exit": "has ended"}[how]
    assert said in ended[0].told


def test_what_cannot_be_is_refused_before_anything_is_loaded(projects):
    with pytest.raises(
        RecipeError, match=r"parallel.context = 2 divides every pair over 2 processes, and this run has 1"
    ):
        run(projects["lora"], "parallel.context=2")
    for key in ('training.packing="off"', "training.compile=true"):
        with pytest.raises(RecipeError, match=r"with parallel.context = 2 .*; remove one of the two"):
            run(projects["lora"], "parallel.context=2", key)


@pytest.mark.parametrize(
    ("overrides", "ranks", "code", "said"),
    [
        (["parallel.context=2"], 3, 2, "divides every pair over 2 processes, and this run has 3 processes"),
        (["parallel.context=3"], 3, 1, "4 attention heads, which 3 processes cannot share equally"),
    ],
)
@soak
def test_numbers_that_do_not_go_together_are_refused_by_all(
    overrides, ranks, code, said, projects, forked, tmp_path
):
    ended = forked.ranks(projects["lora"], [*overrides, into(tmp_path)], ranks=ranks)
    assert [each.code for each in ended] == [code] * ranks, ended
    assert said in ended[0].output


@soak
def test_a_model_that_cannot_be_packed_is_refused_with_its_reason(forked, tmp_path):
    recipe = project(tmp_path / "bloom", kind="bloom")
    ended = forked.ranks(recipe, ["parallel.context=2", into(tmp_path / "run")])
    assert [each.code for each in ended] == [1, 1], ended
    assert (
        "parallel.context = 2 divides packed rows over processes, and the policy cannot be packed:"
        in ended[0].told
    )


def test_one_process_shares_nothing():
    alone = start()
    assert (alone.context, alone.first_of_data_rank, alone.collective_passes) == (None, True, False)
