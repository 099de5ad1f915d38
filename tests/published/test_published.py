"""Published recipes: ``check`` and ``plan`` at their full size, without weights, and three steps on tiny stand-ins."""

import json
import math
import re

import pytest

from dpotrain import load_recipe
from tests.published.architectures import ARCHITECTURES, MODELS
from tests.published.hardware import PARTS, as_it_is, cell, in_the_guide, part, planned, prepared, sentence
from tests.published.stand_ins import FOLDER, GUIDE, RECIPES, architecture_of, published_size, tiny
from tests.run.recipes import records
from tests.support import dpotrain

#: One of each kind of data and loss; the others are in the soak tests.
QUICK = {"tulu3_8b", "smollm3_3b"}
#: Headers whose smaller GPUs are planned, too: small models, since each change takes longer than the recipe as it is.
WITH_CHANGES = {"smollm2_1.7b", "qwen3_4b"}

recipes = pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.soak, id=path.stem)
        for path in RECIPES
    ],
)


def setting(overrides: list[str]) -> list[str]:
    return [word for each in overrides for word in ("--set", each)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_published_number_of_parameters_follows_from_the_shape(name):
    assert ARCHITECTURES[name].counted() == ARCHITECTURES[name].parameters


def test_every_model_that_a_recipe_names_has_an_architecture():
    assert {load_recipe(path).model.options.name for path in RECIPES} == MODELS.keys()
    assert set(MODELS.values()) == ARCHITECTURES.keys()


def test_plan_counts_the_published_model(tmp_path):
    recipe = FOLDER / "smollm2_135m.toml"
    overrides = published_size(recipe, tmp_path)
    plan = planned(recipe, overrides, prepared(recipe, overrides))
    assert plan.parameters == plan.trained_parameters == 134_515_008


@pytest.mark.soak
def test_the_command_prints_the_same(tmp_path):
    recipe = FOLDER / "smollm2_135m.toml"
    overrides = published_size(recipe, tmp_path)
    result = dpotrain("plan", str(recipe), "--json", *setting(overrides))
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["parameters"] == plan["trained_parameters"] == 134_515_008


@pytest.mark.soak
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_plan_is_right_about_parameters_and_the_header_about_the_gpu(recipe, tmp_path):
    loaded = load_recipe(recipe)
    overrides = published_size(recipe, tmp_path, longest=loaded.data.max_length)
    data = prepared(recipe, overrides)
    plan = planned(recipe, overrides, data)
    adapter = 0 if loaded.adapter is None else plan.trained_parameters
    assert plan.parameters - adapter == architecture_of(recipe).parameters
    assert loaded.data.max_length < plan.longest_pair <= 2 * loaded.data.max_length
    assert plan.gpus is not None
    text = part(recipe, "hardware")
    if recipe.stem in WITH_CHANGES:
        assert text == sentence(recipe, overrides, data, plan.gpus.as_is)
    else:
        assert re.match(rf"{as_it_is(recipe, overrides, data, plan.gpus.as_is)}[.;]", text)


@recipes
def test_a_recipe_passes_check_at_its_full_size(recipe, tmp_path):
    done = dpotrain("check", str(recipe), *setting(published_size(recipe, tmp_path)))
    assert done.exit_code == 0, done.output
    assert "keys, plugins and files are in order" in done.output


@recipes
def test_three_steps_on_stand_ins(recipe, tmp_path):
    small = ["training.pairs_per_step=4", "training.steps=3", "logging.every=1", "checkpoints.every=false"]
    done = dpotrain("run", str(recipe), *setting([*tiny(recipe, tmp_path), *small]))
    assert done.exit_code == 0, done.output
    run, asked = tmp_path / "run", load_recipe(recipe)
    lines = records(run)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    if (first := asked.loss.first_loss()) is not None:
        assert lines[0]["loss"] == pytest.approx(first, abs=2e-3)
    kept = load_recipe(run / "recipe.toml")
    for table in ("loss", "adapter", "quantizer", "optimizer", "schedule"):
        assert kept.document.get(table) == asked.document.get(table)
    assert bool(records(run, "eval")) == asked.data.has_evaluation_set
    splits = json.loads((run / "data_report.json").read_text(encoding="utf-8"))["splits"]
    assert [split["dropped"] for split in splits.values()] == [{}] * len(splits)


def test_rows_of_smollm3_choose_the_reasoning_mode(tmp_path):
    recipe = FOLDER / "smollm3_3b.toml"
    overrides = published_size(recipe, tmp_path)
    tokenizer = load_recipe(recipe, overrides).model.load_tokenizer()
    train = prepared(recipe, overrides).train
    prompts = [tokenizer.decode(train[number].prompt) for number in range(len(train))]
    assert sum("Reasoning Mode: /no_think" in prompt for prompt in prompts) == 40
    assert sum("Reasoning Mode: /think" in prompt for prompt in prompts) == 40


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_header_says_source_outcome_hardware_and_what_differs(recipe):
    header = recipe.read_text(encoding="utf-8").partition("\n\n")[0]
    assert f"#     dpotrain run recipes/published/{recipe.name}\n" in header
    assert "@" not in header
    assert all(part(recipe, name).endswith(".") for name in PARTS)
    assert "https://" in part(recipe, "source")
    assert in_the_guide(recipe)
    for name in re.findall(r"(?<![\w./])[\w.]+\.toml", header):
        assert (FOLDER / name).exists(), name


def test_every_published_recipe_is_in_the_table_with_the_gpu_of_its_header():
    text = GUIDE.read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(published/([\w.]+\.toml)\)", text)) == {path.name for path in RECIPES}
    for path in RECIPES:
        (found,) = cell(path).findall(text)
        assert found[1] == in_the_guide(path), path.name


def test_recipes_for_the_same_data_differ_in_what_their_sources_say():
    """Rates and betas are easily mixed up between files that extend each other."""
    found = {}
    for path in RECIPES:
        recipe = load_recipe(path)
        beta = getattr(recipe.loss.options, "beta", None)
        found[path.stem] = (
            beta,
            recipe.optimizer.options.lr,
            recipe.training.epochs,
            recipe.training.pairs_per_step,
        )
    assert found == {
        "tulu3_8b": (5, 5e-7, 1, 128),
        "tulu3_70b": (5, 2e-7, 1, 128),
        "olmo2_7b": (5, 1e-6, 1, 128),
        "olmo2_13b": (5, 8e-7, 1, 128),
        "olmo3_7b_instruct": (5, 1e-6, 1, 128),
        "olmo3_7b_instruct_dolci": (5, 1e-6, 1, 128),
        "olmo3_7b_think": (5, 8e-8, 1, 128),
        "zephyr_7b_full": (0.01, 5e-7, 1, 128),
        "zephyr_7b_qlora": (0.01, 5e-6, 1, 16),
        "zephyr_7b_gemma": (0.05, 5e-7, 2, 128),
        "smollm2_1.7b": (0.5, 1e-6, 3, 128),
        "smollm2_360m": (0.5, 1e-6, 2, 128),
        "smollm2_135m": (0.5, 1e-6, 2, 128),
        "smollm3_3b": (0.05, 1e-6, 1, 32),
        "llama3_8b_simpo_v0.1": (2.5, 1e-6, 1, 128),
        "llama3_8b_simpo_v0.2": (10, 1e-6, 1, 128),
        "llama3_8b_dpo_v0.1": (0.01, 7e-7, 1, 128),
        "llama3_8b_dpo_v0.2": (0.01, 3e-7, 1, 128),
        "gemma2_9b_simpo": (10, 8e-7, 1, 128),
        "gemma2_9b_dpo": (0.01, 5e-7, 1, 128),
        "qwen3_4b": (None, 1e-5, 1, 16),
        "qwen3_30b_a3b": (None, 1e-5, 1, 4),
    }
