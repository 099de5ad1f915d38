"""The objectives of other trainers: what their losses, mixtures and divergences are in a recipe, and what differs."""

from pathlib import Path

import pytest

from dpotrain.convert.configuration import Configuration
from dpotrain.convert.dialect import TRL_LOSSES
from dpotrain.convert.tools import TOOLS
from dpotrain.convert.translation import Translation
from dpotrain.core.errors import RecipeError
from dpotrain.recipe.load import load_recipe
from tests.benchmarks.objectives import CASES, TOGETHER, build, draw, ours
from tests.convert.converting import TRL_COMMAND, converted, document

SWIFT = "swift rlhf --model m --dataset pairs.jsonl"
FACTORY = "llamafactory-cli train --stage dpo --model_name_or_path m --dataset pairs"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return tmp_path


def loss(words: str, **arguments) -> dict:
    """Return what ``[loss]`` of a command line sets, without keys at their defaults."""
    return _set(document(words, **arguments)["loss"])


def _set(table: dict) -> dict:
    return {key: value for key, value in table.items() if not _usual(key, value)}


def _usual(key: str, value) -> bool:
    return (key, value) in (("divergence", "reverse-kl"), ("tail_weight", 1.0), ("label_smoothing", 0.0))


def terms(words: str, **arguments) -> list[tuple[float, dict]]:
    """Return weight and loss of the ``[[loss.terms]]`` of a command line."""
    found = loss(words, **arguments)
    assert found["use"] == "mix"
    return [(each.pop("weight"), _set(each.get("loss", each))) for each in found["terms"]]


def notes(words: str, **arguments) -> str:
    return "\n".join(converted(words, **arguments).translation.notes)


def not_needed(words: str) -> dict[str, str]:
    return {each.key: each.reason for each in converted(words).translation.left}


@pytest.mark.parametrize("name", sorted(TRL_LOSSES))
def test_every_loss_of_trl_becomes_one_that_loads(name):
    smoothing = " --label_smoothing 0.01" if name == "exo_pair" else ""
    found = loss(f"{TRL_COMMAND} --loss_type {name} --beta 0.3{smoothing}")
    assert found["use"] == TRL_LOSSES[name]
    assert found.get("beta") == (None if name == "sft" else 0.3)


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ("--loss_type exo_pair --label_smoothing 0.01", "label_smoothing", 0.01),
        ("--loss_type aot --label_smoothing 0.01", "label_smoothing", 0.01),
        ("--loss_type aot_unpaired --label_smoothing 0.01", "label_smoothing", 0.01),
        ("--loss_type discopop --discopop_tau 0.1", "tau", 0.1),
        ("--loss_type bco_pair", "running_mean", False),
        ("--use_weighting", "weighting", "wpo"),
        ("--ld_alpha 0.4", "tail_weight", 0.4),
        ("--f_divergence_type forward_kl", "divergence", "forward-kl"),
        ("--f_divergence_type js_divergence", "divergence", "jensen-shannon"),
        ("--f_divergence_type alpha_divergence", "divergence_alpha", 0.5),
        ("--f_divergence_type alpha_divergence --f_alpha_divergence_coef 0.3", "divergence_alpha", 0.7),
    ],
)
def test_keys_of_a_loss(options, key, value):
    assert loss(f"{TRL_COMMAND} {options}")[key] == value


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.trainer == "dpo"], ids=lambda case: case.name.replace(", ", "-")
)
def test_what_the_benchmark_compares_with_trl_is_what_is_converted(case):
    """``tests.benchmarks.objectives`` has these keys and losses agree in an environment with TRL."""
    words = [TRL_COMMAND, "--per_device_train_batch_size", str(TOGETHER)]
    for key, value in case.theirs.items():
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    Path("made.toml").write_text(converted(" ".join(words)).text)
    pairs = draw(2 * TOGETHER, seed=1)
    found = ours(load_recipe("made.toml").loss, case, pairs)
    assert found == ours(build(case.loss), case, pairs)


def test_robust_has_trls_smoothing_unless_set():
    assert document(f"{TRL_COMMAND} --loss_type robust")["loss"]["label_smoothing"] == 0.0


def test_keys_of_another_loss_are_not_needed():
    made = converted(f"{TRL_COMMAND} --loss_type nca_pair --label_smoothing 0.1 --discopop_tau 0.1")
    assert "label_smoothing" not in made.text
    reasons = {each.key: each.reason for each in made.translation.left}
    assert reasons["label_smoothing"] == "TRL ignores it with loss_type nca_pair"
    assert reasons["discopop_tau"] == "TRL ignores it with loss_type nca_pair"


def test_a_list_of_losses_is_a_mix():
    asked = f"{TRL_COMMAND} --loss_type sigmoid bco_pair sft --loss_weights 0.8 0.2 1.0"
    assert terms(asked) == [
        (0.8, {"use": "dpo", "beta": 0.1}),
        (0.2, {"use": "bco", "beta": 0.1, "running_mean": False}),
        (1.0, {"use": "sft", "per": "token"}),
    ]
    assert [weight for weight, _ in terms(f"{TRL_COMMAND} --loss_type sigmoid ipo")] == [1.0, 1.0]
    assert loss(f"{TRL_COMMAND} --loss_type sigmoid --loss_weights 1.0")["use"] == "dpo"
    assert terms(f"{TRL_COMMAND} --loss_type hinge --loss_weights 0.5") == [
        (0.5, {"use": "hinge", "beta": 0.1})
    ]
    left_out = f"{TRL_COMMAND} --loss_type sigmoid ipo --loss_weights 1.0 0.0"
    assert loss(left_out) == {"use": "dpo", "beta": 0.1}
    assert "loss_weights: ipo has weight 0 and is left out" in notes(left_out)


def test_what_a_mean_over_tokens_is_of():
    asked = f"{TRL_COMMAND} --loss_type sft"
    assert loss(asked)["per"] == "token"
    assert "NLL" not in notes(asked)  # the batch is the step
    assert (
        "loss_type: TRL takes the NLL's mean over the tokens of each batch of 8 pairs on one device; dpotrain over "
        "those of the whole step"
    ) in notes(asked, processes=2)
    assert "of 8 pairs" in notes(f"{asked} --gradient_accumulation_steps 2")
    alone = f"{asked} --per_device_train_batch_size 1 --gradient_accumulation_steps 8"
    assert loss(alone)["per"] == "pair"
    assert "NLL" not in notes(alone)


def test_what_aot_sorts():
    asked = f"{TRL_COMMAND} --loss_type aot"
    assert "sorts" not in notes(asked)
    assert (
        "loss_type aot: TRL sorts the 8 pairs of a batch on one device; dpotrain all pairs of the step"
        in notes(asked, processes=2)
    )


def test_a_supervised_term_is_a_mix():
    asked = f"{TRL_COMMAND} --rpo_alpha 0.5 --use_weighting"
    assert terms(asked) == [
        (1.0, {"use": "dpo", "beta": 0.1, "weighting": "wpo"}),
        (0.5, {"use": "sft", "per": "token"}),
    ]
    assert "use_weighting: the NLL over tokens is not weighted" in notes(asked)
    assert loss(f"{TRL_COMMAND} --rpo_alpha 0")["use"] == "dpo"


def test_a_mix_has_divergence_and_weighting_by_term_and_one_discount():
    asked = f"{TRL_COMMAND} --loss_type sigmoid hinge sft --f_divergence_type forward_kl --ld_alpha 0.5"
    assert loss(asked)["tail_weight"] == 0.5
    assert [each.get("divergence") for _, each in terms(asked)] == ["forward-kl", "forward-kl", None]
    assert "ld_alpha: TRL's NLL counts all tokens alike; in dpotrain it is discounted, too" in notes(asked)
    assert "the exponential goes on as its tangent beyond an exponent of 20 in dpotrain" in notes(asked)


def test_the_two_alphas():
    asked = f"{TRL_COMMAND} --f_divergence_type alpha_divergence --f_alpha_divergence_coef"
    assert loss(f"{asked} 0")["divergence_alpha"] == 1.0
    assert "1 for the reverse KL and 0 for the forward KL, the other way round" in notes(f"{asked} 0.2")
    assert "divergence" not in loss(f"{asked} 1.0")
    reasons = not_needed(f"{asked} 1.0")
    for key in ("f_divergence_type", "f_alpha_divergence_coef"):
        assert reasons[key].endswith("TRL 1.16 takes the reverse KL")
    swift = f"{SWIFT} --f_divergence_type alpha_divergence --f_alpha_divergence_coef 0.2"
    assert loss(swift)["divergence_alpha"] == 0.2
    assert "ms-swift's default is 1 with older versions of TRL" in notes(
        f"{SWIFT} --f_divergence_type alpha_divergence"
    )


def test_without_a_reference_sigmoid_is_cpo():
    assert loss(f"{TRL_COMMAND} --reference_free") == {
        "use": "cpo",
        "beta": 0.1,
        "weight": 0.0,
        "nll": "sum",
    }
    ((_, first), second) = terms(f"{SWIFT} --reference_free --rpo_alpha 0.1")
    assert (first["use"], first["weight"]) == ("cpo", 0.0)
    assert second == (0.1, {"use": "sft", "per": "pair"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--loss_type sigmoid new", "dpotrain has no such loss"),
        ("--loss_type sigmoid ipo --loss_weights 1.0", "a number for each loss is expected"),
        ("--loss_type sigmoid ipo --loss_weights 1.0 -1.0", "none below 0"),
        ("--loss_type sigmoid --loss_weights 0", "not all 0"),
        ("--rpo_alpha -1", "a number above 0 is expected"),
        ("--loss_type ipo --f_divergence_type forward_kl", "with ipo the part of the reward that belongs to the"),
        ("--loss_type sigmoid_norm --f_divergence_type forward_kl", "with dpo-norm the part of the reward"),
        ("--loss_type nca_pair --f_divergence_type forward_kl", "with nca the part of the reward"),
        ("--f_divergence_type new", "dpotrain has no such divergence"),
        ("--f_divergence_type alpha_divergence --f_alpha_divergence_coef -1", "between the reverse and the forward"),
        ("--reference_free --f_divergence_type forward_kl", "without a reference there is nothing to diverge from"),
        ("--reference_free --loss_type hinge", "only sigmoid without label smoothing has a counterpart"),
        ("--reference_free --label_smoothing 0.1", "only sigmoid without label smoothing has a counterpart"),
        ("--loss_type aot --use_weighting", "sorted losses have no weight of a pair"),
        ("--loss_type sft --use_weighting", "a mean over the tokens of several pairs has no weight of a pair"),
        ("--ld_alpha 0.5 --use_weighting", "it does not combine with use_weighting"),
    ],
)  # fmt: skip
def test_what_does_not_combine_is_refused_with_the_reason(options, reason):
    with pytest.raises(RecipeError) as caught:
        converted(f"{TRL_COMMAND} {options}")
    assert reason in str(caught.value)
    assert "nothing was written" in str(caught.value)


@pytest.mark.parametrize("use", [name for name in sorted(TRL_LOSSES) if name != "exo_pair"])
@pytest.mark.parametrize(
    "options", ["--f_divergence_type js_divergence", "--use_weighting", "--ld_alpha 0.5", "--reference_free"]
)
def test_a_key_beside_any_loss_is_refused_or_loads(use, options):
    """What the converter writes is never what a recipe refuses."""
    try:
        made = converted(f"{TRL_COMMAND} --loss_type {use} {options}")
    except RecipeError as error:
        assert "--without" in str(error)  # noqa: PT017 - either is right
    else:
        assert made.fault == ""


@pytest.mark.parametrize("value", ["x", [1], {"a": 1}, -1, []], ids=str)
def test_a_value_of_another_kind_is_no_crash(value):
    keys = """loss_type loss_weights rpo_alpha use_weighting ld_alpha f_divergence_type f_alpha_divergence_coef
    reference_free label_smoothing pref_loss pref_ftx pref_bco_weight rl dpo_loss_type dpo_loss_weights trl
    dpo_use_weighting dpo_norm_loss per_device_train_batch_size"""
    for tool in TOOLS.values():
        for key in keys.split():
            for more in ({}, {"f_divergence_type": "alpha_divergence"}):
                values = {"stage": "dpo", "rl": "dpo", **more, key: value}
                losses = [*TRL_LOSSES.values()]
                translation = Translation(tool, Configuration("c.yaml", values), processes=1, losses=losses)
                try:
                    tool.translate(translation)
                    translation.finish()
                    translation.draft.text()
                except RecipeError:
                    pass


def test_ms_swift_has_losses_of_its_own():
    asked = f"{SWIFT} --loss_type bco_pair"
    assert loss(asked)["running_mean"] is True
    assert "ms-swift updates the mean reward with every batch; dpotrain with every step" in notes(asked)
    assert "ms-swift discounts the policy's log-probs alone" in notes(f"{SWIFT} --ld_alpha 0.5")
    reasons = not_needed(f"{SWIFT} --use_weighting --f_divergence_type forward_kl")
    assert reasons["use_weighting"] == "ms-swift's DPO trainer does not read it"
    assert reasons["f_divergence_type"] == "ms-swift reads js_divergence and alpha_divergence only"
    assert terms(f"{SWIFT} --loss_type sigmoid sft --loss_weights 1.0 0.5")[1][0] == 0.5
    with pytest.raises(RecipeError, match="without a reference there is nothing to diverge from"):
        converted(f"{SWIFT} --reference_free --f_divergence_type js_divergence")
    with pytest.raises(RecipeError, match="beside ipo, ms-swift divides the log-probs of the other losses"):
        converted(f"{SWIFT} --loss_type sigmoid ipo")


def test_llama_factorys_terms():
    made = converted(f"{FACTORY} --pref_ftx 0.1 --pref_bco_weight 0.25 --ld_alpha 0.5")
    text = made.text
    assert made.fault == ""
    assert [line for line in text.splitlines() if line.startswith(("weight", "tail_weight"))] == [
        "tail_weight = 0.5                       # ld_alpha",
        "weight = 0.8                            # 1 / (1 + pref_bco_weight)",
        "weight = 0.2                            # pref_bco_weight / (1 + pref_bco_weight)",
        "weight = 0.1",
    ]
    told = "\n".join(made.translation.notes)
    assert "ld_alpha: LLaMA-Factory discounts the policy's log-probs alone" in told
    assert "pref_bco_weight: LLaMA-Factory updates the mean reward with every batch" in told
    both = converted(f"{FACTORY} --pref_loss orpo --pref_ftx 0.1 --pref_bco_weight 0.2")
    assert both.fault == ""
    assert 'loss = { use = "orpo", weight = 0.1 }' in both.text
    with pytest.raises(RecipeError, match="beside ipo it is of log-probs per token"):
        converted(f"{FACTORY} --pref_loss ipo --pref_bco_weight 0.2")


def test_axolotls_losses(folder):
    data = '--datasets \'[{"path": "pairs.jsonl"}]\' --micro_batch_size 2'
    asked = f"axolotl train --base_model m --learning_rate 1e-6 {data}"
    assert terms(f"{asked} --rl dpo --dpo_loss_type '[sigmoid, sft]' --dpo_loss_weights '[1.0, 0.5]'") == [
        (1.0, {"use": "dpo", "beta": 0.1}),
        (0.5, {"use": "sft", "per": "token"}),
    ]
    assert loss(f"{asked} --rl dpo --dpo_use_weighting true")["weighting"] == "wpo"
    assert terms(f"{asked} --rl dpo --rpo_alpha 0.5")[1] == (0.5, {"use": "sft", "per": "token"})
    assert loss(f"{asked} --rl dpo --dpo_norm_loss true --rl_beta 2.0") == {"use": "dpo-norm", "beta": 2.0}
    assert loss(f"{asked} --rl ipo --dpo_loss_type hinge")["use"] == "ipo"
