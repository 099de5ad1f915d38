"""What a run leaves: DESIGN of the run folder, and a result that plain libraries load."""

import json
import math
from pathlib import Path

import pytest
import torch

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.plugin.runtime.interface import INTERFACE
from tests.run.recipes import project, records, run

METRICS = [
    "loss", "grad_norm", "learning_rate", "epoch", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
    "rewards/margins", "logps/chosen", "logps/rejected", "pairs_per_second", "tokens_per_second",
    "peak_memory_mb",
]  # fmt: skip


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    recipe = project(folder, adapter=request.param == "lora")
    outcome = run(recipe, "checkpoints.every=4")
    return request.param, recipe, outcome


def test_files(finished):
    _, recipe, outcome = finished
    run = recipe.parent / "run"
    assert outcome.folder == run
    names = {path.name for path in run.iterdir()}
    assert {
        "recipe.toml", "environment.json", "data_report.json", "metrics.jsonl", "run.log", "checkpoints", "final",
        "summary.json",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".")]


def test_metrics_have_the_fields_names_in_order(finished):
    _, recipe, _ = finished
    train_lines, eval_lines = records(recipe.parent / "run"), records(recipe.parent / "run", "eval")
    assert [line["step"] for line in train_lines] == list(range(1, 11))
    assert list(train_lines[0]) == ["kind", "step", *METRICS]
    assert [line["step"] for line in eval_lines] == [0, 10]
    assert set(eval_lines[0]) <= {"kind", "step", "pairs", *METRICS}
    assert eval_lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_summary_is_the_outcome(finished):
    _, recipe, outcome = finished
    summary = json.loads((recipe.parent / "run" / "summary.json").read_text())
    assert summary["status"] == outcome.status == "finished"
    assert (summary["steps"], summary["final"]) == (10, str(outcome.final))
    assert summary["last_evaluation"] == outcome.last_evaluation
    assert summary["best_evaluation"]["loss"] <= summary["first_evaluation"]["loss"]
    assert summary["pairs_per_second"] > 0


def test_the_environment_tells_versions_and_plugins(finished):
    _, recipe, _ = finished
    environment = json.loads((recipe.parent / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__ or environment["packages"]["torch"]
    assert {plugin["name"] for plugin in environment["plugins"]} >= {"transformers", "hf-datasets", "losses"}
    (losses,) = (plugin for plugin in environment["plugins"] if plugin["name"] == "losses")
    assert losses["selected"] == ["loss dpo"]
    assert (losses["distribution"], losses["interface"]) == ("dpotrain", INTERFACE)
    assert Path(losses["file"]).parent.name == "losses"


def test_the_recipe_in_the_folder_repeats_the_run(finished, tmp_path):
    _, recipe, _ = finished
    kept = recipe.parent / "run" / "recipe.toml"
    run(kept, into=tmp_path / "run")
    again, before = records(tmp_path / "run"), records(recipe.parent / "run")
    assert [line["loss"] for line in again] == [line["loss"] for line in before]


def log_probs(model, tokenizer, prompt: str, completion: str) -> float:
    prompt_ids = tokenizer(prompt)["input_ids"]
    completion_ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([prompt_ids + completion_ids])
    with torch.no_grad():
        table = model(ids).logits[0].float().log_softmax(-1)
    places = range(len(prompt_ids) - 1, ids.shape[1] - 1)
    return table[places, ids[0, len(prompt_ids) :]].sum().item()


def test_the_result_loads_with_plain_libraries_and_has_learned_what_was_logged(finished, tmp_path):
    """Log-probs and rewards on the held-out pairs, computed from final/ and the base alone, are the last evaluation's.

    TRAPS: evaluation after training with the trained weights as reference.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, recipe, outcome = finished
    tokenizer = AutoTokenizer.from_pretrained(outcome.final)
    base = recipe.parent / "model"
    if kind == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), outcome.final)
    else:
        model = AutoModelForCausalLM.from_pretrained(outcome.final)
    model.eval()
    from dpotrain.data.prepare import prepare_data

    loaded = load_recipe(recipe)
    held_out = prepare_data(loaded, tokenizer, SilentReporter()).evaluation
    rows = [json.loads(line) for line in (recipe.parent / "pairs.jsonl").read_text().splitlines()]

    def means(scored) -> dict[str, float]:
        return {
            answer: sum(
                log_probs(scored, tokenizer, rows[row]["prompt"], rows[row][answer]) for row in held_out.rows
            )
            / len(held_out)
            for answer in ("chosen", "rejected")
        }

    before, after = means(AutoModelForCausalLM.from_pretrained(base).eval()), means(model)
    assert after["chosen"] == pytest.approx(outcome.last_evaluation["logps/chosen"], abs=0.02)
    for answer in ("chosen", "rejected"):
        reward = 0.1 * (after[answer] - before[answer])
        assert outcome.last_evaluation[f"rewards/{answer}"] == pytest.approx(reward, abs=2e-3)
    assert abs(outcome.last_evaluation["logps/chosen"] - outcome.first_evaluation["logps/chosen"]) > 0.1


def test_nothing_in_the_folder_is_a_pickle(finished):
    _, recipe, _ = finished
    suffixes = {path.suffix for path in Path(recipe.parent / "run").rglob("*") if path.is_file()}
    assert suffixes <= {".toml", ".json", ".jsonl", ".log", ".safetensors", ".jinja", ".pairs", ".md"}


def test_the_policy_runs_under_the_references_numerics(tmp_path):
    """TRAPS: reference computed without the autocast that the policy runs under: step-0 rewards are not zero."""
    recipe = project(tmp_path)
    overrides = ['training.precision="bf16"', "training.steps=1"]
    outcome = run(recipe, *overrides)
    assert outcome.train["loss"] == pytest.approx(math.log(2), abs=2e-3)
    assert outcome.first_evaluation["rewards/chosen"] == pytest.approx(0, abs=1e-2)


def test_another_model_as_reference(tmp_path):
    from tests.support import tiny_checkpoint

    recipe = project(tmp_path)
    tiny_checkpoint(tmp_path / "other", initializer_range=0.1)
    results = []
    for when in ("precomputed", "live"):
        overrides = [
            f"reference.of={str(tmp_path / 'other')!r}",
            f'reference.when="{when}"',
            f"run.output_dir={str(tmp_path / when)!r}",
        ]
        run(recipe, *overrides)
        results.append([line["loss"] for line in records(tmp_path / when)])
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    assert abs(results[0][0] - math.log(2)) > 1e-3
