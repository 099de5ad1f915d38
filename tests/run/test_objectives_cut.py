"""Every objective is the same however its steps are computed, and wherever a run of it was stopped and resumed.

Rows are objectives: every registered loss, every divergence, weighting and column of a pair. A loss that is new has a
row with its defaults; one that needs keys, or has several forms, has its rows in :data:`FORMS`.
"""

import gc
import json
import random
import signal
from pathlib import Path
from typing import get_args

import pytest

from dpotrain.core.divergences import Divergence
from dpotrain.core.pair_columns import APPLIED, REFERENCE
from dpotrain.plugin.api import Loss
from dpotrain.plugin.api.loss import ALIGNED_BY
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain_plugins.losses import dpotrain_losses
from tests.run.recipes import LORA, project, records, run
from tests.run.test_resume_matrix import STOPPED, differences, into, recipe_of

soak = pytest.mark.soak

#: Largest difference of a loss, absolute below 1 and relative above; rewards are multiples of log-prob sums.
ROUNDING, REWARD_ROUNDING = 1e-5, 1e-4

LOSSES = {loss.name: loss for loss in dpotrain_losses()}

#: The forms of a loss: what ``[loss]`` has beside ``use``.
FORMS = {
    "bco": {"running mean": [], "no running mean": ["running_mean=false"]},
    "sft": {"per pair": [], "per token": ['per="token"']},
    "dpo": {"": [], "smoothed": ["label_smoothing=0.1"]},
    "aot": {"": [], "smoothed": ["label_smoothing=0.1"]},
    # Near their targets the squares of log-prob sums have no more digits than the bar.
    "sppo": {"": ["beta=0.01"]},
    "cpo": {"": [], "mean": ['nll="mean"']},
    "dpo-shift": {"": ["last_rejected_share=0.25"]},
    "alphapo": {"": [], "negative alpha": ["alpha=-0.5"]},
    "mix": {
        "of pairs": ['terms=[{use="dpo", weight=0.5}, {use="sft"}, {use="hinge", weighting="wpo"}]'],
        "of pairs and coupled": ['terms=[{use="dpo"}, {use="bco"}, {use="sft", per="token", weight=0.1}]'],
        "of coupled": ['terms=[{use="bco"}, {use="aot-unpaired"}, {use="beta-dpo", weight=2.0}]'],
        "with a divergence": ['terms=[{use="dpo", divergence="jensen-shannon"}, {use="bco"}]'],
    },
}

#: What a divergence needs beside its name.
DIVERGENCES = {"alpha": ["divergence_alpha=0.5"]}


def columns(*names: str) -> str:
    return "data.columns={" + ", ".join(f'{name}="{name}"' for name in names) + "}"


def of_loss(name: str, *keys: str) -> list[str]:
    """The overrides that select a loss, and map the columns that it reads."""
    read = [columns(*LOSSES[name].columns)] if LOSSES[name].columns else []
    return [f'loss.use="{name}"', *(f"loss.{key}" for key in keys), *read]


def objectives() -> dict[str, list[str]]:
    rows = {
        f"{name} {form}".strip(): of_loss(name, *keys)
        for name in LOSSES
        for form, keys in FORMS.get(name, {"": []}).items()
    }
    for loss in ("dpo", "hinge"):
        for name in get_args(Divergence)[1:]:  # the first is what all others have
            keys = DIVERGENCES.get(name, [])
            rows[f"{loss}, {name}"] = of_loss(loss, f'divergence="{name}"', *keys)
    for name in ALIGNED_BY:
        rows[f"dpo, {name}"] = of_loss("dpo", f'weighting="{name}"')
    rows["simpo, wpo"] = of_loss("simpo", 'weighting="wpo"')
    for loss in ("dpo", "simpo", "aot"):
        rows[f"{loss}, tail_weight"] = of_loss(loss, "tail_weight=0.5")
    coupled_mix = FORMS["mix"]["of pairs and coupled"]
    rows["mix, tail_weight"] = of_loss("mix", "tail_weight=0.5", *coupled_mix)
    for name in APPLIED:
        rows[f"dpo, column {name}"] = [*of_loss("dpo"), columns(name)]
    rows["dpo, all columns"] = [*of_loss("dpo"), columns(*APPLIED)]
    # aot is dpo as long as policy and reference sort the pairs alike, as they do when one comes from the other.
    for loss in ("dpo", "aot"):
        rows[f"{loss}, reference from columns"] = [*of_loss(loss, "beta=0.01"), columns(*REFERENCE)]
    for loss, *keys in (("bco", "running_mean=false"), ("simpo",), ("mix", *FORMS["mix"]["of pairs"])):
        rows[f"{loss}, columns weight and label_probability"] = [
            *of_loss(loss, *keys),
            columns("weight", "label_probability"),
        ]
    for loss, *keys in (("bco",), ("mix", *coupled_mix)):
        rows[f"{loss} over a step, column weight"] = [*of_loss(loss, *keys), columns("weight")]
    return rows


OBJECTIVES = objectives()

QUICK = {"mix of coupled"}

SMALL = "training.tokens_per_microbatch=60"
PADDED = 'training.packing="off"'
CHECKPOINTING = "training.activation_checkpointing=true"
LIVE = 'reference.when="live"'

#: Ways of computing the same steps: in how many processes, and with what of the recipe. The first is compared with.
WAYS = {
    "full": {
        "in one micro-batch": (1, ["training.tokens_per_microbatch=100000"]),
        "cut small, live reference, checkpointing": (1, [SMALL, LIVE, CHECKPOINTING]),
        "padded": (1, [PADDED, "training.tokens_per_microbatch=150"]),
        "two processes": (2, [SMALL]),
    },
    "lora": {
        "in one micro-batch": (1, ["training.tokens_per_microbatch=100000"]),
        "cut small, live reference": (1, [SMALL, LIVE]),
        "two processes, padded, checkpointing": (2, [PADDED, CHECKPOINTING, SMALL]),
    },
}


@pytest.fixture(scope="module")
def plugins():
    found = PluginManager.from_entry_points()
    gc.freeze()  # every run collects garbage; what the plugins imported is none
    return found


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> dict[str, Path]:
    """A recipe of three steps for full weights and one for an adapter, of the same pairs, which have all columns."""
    folder = tmp_path_factory.mktemp("objectives")
    full = project(folder, initializer_range=0.1)
    draw = random.Random(1)
    pairs = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for row in rows:
        row |= {
            "weight": draw.uniform(0, 2),
            "margin": draw.uniform(-1, 2),
            "label_probability": draw.random(),
        }
        row |= {"reference_chosen": draw.uniform(-200, -50), "reference_rejected": draw.uniform(-200, -50)}
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = full.read_text() + "[checkpoints]\nevery = 100\n"
    full.write_text(text)
    lora = folder / "lora.toml"
    lora.write_text(text + LORA)
    return {"full": full, "lora": lora}


#: Longer ones take the log-ratios so far that exp of them, in a divergence, enlarges what is rounded.
THREE_STEPS = [
    "training.steps=3",
    'schedule.use="constant"',
    "schedule.warmup_fraction=0.0",
    "optimizer.lr=5e-4",
]


def numbers(folder: Path, *, rewards: bool = False) -> list[float]:
    """The losses of all steps and of the held-out pairs, with their parts; or the rewards."""
    lines = [*records(folder), *records(folder, "eval")]
    assert [line["step"] for line in lines] == [1, 2, 3, 0, 3]
    names = [
        name for name in sorted(lines[0]) if name.partition("/")[0] == ("rewards" if rewards else "loss")
    ]
    return [line[name] for line in lines for name in names if name != "rewards/accuracies"]


def difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / max(1, abs(b)) for a, b in zip(one, other, strict=True))


def way_of(objective: list[str], way: list[str]) -> list[str]:
    """The overrides; where no reference is computed, nothing can be said of when."""
    loss = LOSSES[objective[0].partition("=")[2].strip('"')]
    none = not loss.needs_reference or any(REFERENCE[0] in override for override in objective)
    return [*objective, *THREE_STEPS, *(each for each in way if not (none and each == LIVE))]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=soak) for name in OBJECTIVES]
)
def test_losses_are_the_same_however_the_steps_are_computed(recipes, plugins, forked, tmp_path, name):
    in_two = []
    for kind, ways in WAYS.items():
        for way, (processes, chosen) in ways.items():
            overrides = [*way_of(OBJECTIVES[name], chosen), into(tmp_path / kind / way)]
            if processes == 1:
                run(recipes[kind], *overrides, plugins=plugins)
            else:
                in_two.append((recipes[kind], overrides))
    (first, overrides), (last, more) = in_two
    acts = [[rank, "runs_first", str(first), [overrides]] for rank in (0, 1)]
    ended = forked.ranks(last, more, resume=False, acts=acts)
    assert [each.code for each in ended] == [0, 0], ended[0].output
    apart, rewards_apart = {}, {}
    for kind, ways in WAYS.items():
        plain, *others = (tmp_path / kind / way for way in ways)
        steps = [record["loss"] for record in records(plain)]
        assert max(steps) - min(steps) > ROUNDING  # else every way would do
        for other in others:
            apart[f"{kind}, {other.name}"] = difference(numbers(other), numbers(plain))
            rewards = (numbers(each, rewards=True) for each in (other, plain))
            rewards_apart[f"{kind}, {other.name}"] = difference(*rewards)
    print(f"{name}: {max(apart.values()):.1e}, rewards {max(rewards_apart.values()):.1e}")
    assert {way: number for way, number in apart.items() if number > ROUNDING} == {}
    assert {way: number for way, number in rewards_apart.items() if number > REWARD_ROUNDING} == {}


def test_the_terms_of_a_mix_that_couples_pairs_add_up_to_its_loss(recipes, plugins, tmp_path):
    """TRAPS: the part of a loss that is logged is another than the one that is trained on."""
    run(recipes["full"], *OBJECTIVES["mix of coupled"], *THREE_STEPS, into=tmp_path / "run", plugins=plugins)
    for record in [*records(tmp_path / "run"), *records(tmp_path / "run", "eval")]:
        total = record["loss/bco"] + record["loss/aot-unpaired"] + 2 * record["loss/beta-dpo"]
        assert record["loss"] == pytest.approx(total, abs=ROUNDING)


#: Losses with a state, which a checkpoint must hold.
STATEFUL = {name for name, loss in LOSSES.items() if loss.state_dict is not Loss.state_dict}
WITH_STATE = [
    name
    for name, overrides in OBJECTIVES.items()
    if "," not in name
    and name != "bco no running mean"
    and any(f'use="{loss}"' in override for override in overrides for loss in STATEFUL)
]


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("mix of coupled", 1),
        *(pytest.param(name, 1, marks=soak) for name in WITH_STATE if name != "mix of coupled"),
        pytest.param("mix of coupled", 2, marks=soak),
    ],
)
def test_stopped_and_killed_an_objective_with_a_state_ends_in_the_same_bits(
    forked, tmp_path, name, processes
):
    recipe = recipe_of(tmp_path, adapter=False)

    def codes(*overrides: str, signalled: tuple[int, str] | None = None) -> set[int]:
        acts = [] if signalled is None else [[0, "signal_after", *signalled]]
        chosen = [*OBJECTIVES[name], "checkpoints.every=2", *overrides]
        return {each.code for each in forked.ranks(recipe, chosen, ranks=processes, acts=acts)}

    assert codes() == {0}
    stopped = into(tmp_path / "stopped")
    assert codes(stopped, signalled=(3, "SIGTERM")) == {STOPPED}
    if processes == 1:  # of two, one would wait for the other
        assert codes(stopped, signalled=(7, "SIGKILL")) == {-signal.SIGKILL}
    assert codes(stopped) == {0}
    assert differences(tmp_path / "stopped", tmp_path / "run") == []
