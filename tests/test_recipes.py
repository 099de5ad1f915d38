"""Every recipe in recipes/ runs: as it stands but for its size, its model and its data, which are tiny local ones."""

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dpotrain import load_recipe
from dpotrain.cli import main
from tests.run.recipes import records, sentence
from tests.support import tiny_checkpoint, tiny_tokenizer

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
STEPS = 3

recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def conversations(count: int, seed: int) -> list[dict]:
    """Rows as UltraFeedback has them: whole conversations that begin with the same prompt, and their scores."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        prompt = {"role": "user", "content": f"{seed}.{number}: {sentence(draw, 2, 12)}?"}
        answers = [{"role": "assistant", "content": sentence(draw, 2, 16)} for _ in range(2)]
        chosen, rejected = ([prompt, answer] for answer in answers)
        rows.append({"chosen": chosen, "rejected": rejected, "score_chosen": 8.0, "score_rejected": 3.5})
    return rows


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A folder with ``chat`` (a model whose tokenizer has a chat template), ``base`` (one without) and ``data``."""
    folder = tmp_path_factory.mktemp("recipes")
    tiny_checkpoint(folder / "chat")
    tiny_checkpoint(folder / "base")
    for file in (folder / "base").glob("chat_template*"):
        file.unlink()
    tiny_tokenizer(folder / "base", chat_template=False)
    (folder / "data").mkdir()
    for seed, (split, count) in enumerate({"train": 40, "test": 6}.items()):
        lines = [json.dumps(row) + "\n" for row in conversations(count, seed)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def replaced(recipe: Path, places: Path, run: Path) -> list[str]:
    """What makes a recipe small. All else stays, so a recipe's own quantizer, adapter, loss, … are what runs."""
    brings_template = getattr(load_recipe(recipe).model.options, "chat_template", None) is not None
    overrides = {
        "run.output_dir": str(run),
        "model.use": "transformers",
        "model.name": str(places / ("base" if brings_template else "chat")),
        "data.use": "hf-datasets",
        "data.name": str(places / "data"),
        "training.pairs_per_step": 4,
        "training.steps": STEPS,
        "logging.every": 1,
    }
    if load_recipe(recipe).samples is not None:
        overrides["samples.max_tokens"] = 3
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def dpotrain(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_there_are_recipes():
    assert {path.name for path in RECIPES} >= {
        "quickstart.toml",
        "smollm2_lora.toml",
        "llama2_lora.toml",
        "llama2_full.toml",
    }


@recipes
def test_a_recipe_runs(recipe, places, tmp_path):
    run = tmp_path / "run"
    done = dpotrain("run", str(recipe), *replaced(recipe, places, run))
    assert done.exit_code == 0, done.output

    lines = records(run)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=2e-3)
    assert [line["step"] for line in records(run, "eval")] == [0, STEPS]

    kept = load_recipe(run / "recipe.toml")
    theirs = load_recipe(recipe)
    for part in ("quantizer", "adapter", "loss"):
        mine, asked = getattr(kept, part), getattr(theirs, part)
        assert (mine and mine.options) == (asked and asked.options)
    assert [logger.name for logger in kept.loggers] == [logger.name for logger in theirs.loggers]
    if any(logger.name == "wandb" for logger in kept.loggers):
        assert list((run / "wandb").glob("offline-run-*")), done.output


@recipes
def test_the_result_is_trained_and_loads(recipe, places, tmp_path):
    """TRAPS: gradients that silently vanish beside 4-bit weights; updates lost in 16 bits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The warm-up and a small learning rate would leave three steps' work to rounding.
    more = [
        "--set", "optimizer.lr=1e-2", "--set", "schedule.use=constant", "--set",
        "schedule.warmup_fraction=0",
    ]  # fmt: skip
    overrides = [*replaced(recipe, places, tmp_path / "run"), *more]
    assert dpotrain("run", str(recipe), *overrides).exit_code == 0

    final = tmp_path / "run" / "final"
    asked = load_recipe(recipe)
    start = AutoModelForCausalLM.from_pretrained(places / "chat", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    ids = torch.tensor([tokenizer("What is the capital of France?")["input_ids"]])
    with torch.no_grad():
        before = start(ids).logits
        if asked.adapter is None:
            assert not (final / "adapter_config.json").exists()
            trained = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
        else:
            from peft import PeftModel

            trained = PeftModel.from_pretrained(start, final)
        after = trained.eval()(ids).logits
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 0.01
    assert tokenizer.chat_template
    # The third step's record comes after two updates.
    assert records(tmp_path / "run")[-1]["rewards/margins"] != 0


@recipes
def test_a_recipe_passes_check(recipe, places, tmp_path):
    done = dpotrain("check", str(recipe), *replaced(recipe, places, tmp_path / "run"))
    assert done.exit_code == 0, done.output
    assert "keys, plugins and files are in order" in done.output
    assert not (tmp_path / "run").exists()


def test_llama2_lora_is_the_run_that_people_ask_for():
    recipe = load_recipe(FOLDER / "llama2_lora.toml")
    assert recipe.model.options.name == "meta-llama/Llama-2-7b-hf"
    assert recipe.sources[0].options.name == "trl-lib/ultrafeedback_binarized"
    assert recipe.quantizer.name == "bnb-4bit"
    assert (recipe.adapter.name, recipe.adapter.options.rank, recipe.adapter.options.alpha) == (
        "lora",
        64,
        16,
    )
    assert (recipe.loss.name, recipe.loss.options.beta, recipe.training.epochs) == ("dpo", 0.1, 1)
    assert (recipe.logging.every, recipe.checkpoints.every) == (10, 200)
    assert [logger.name for logger in recipe.loggers] == ["wandb"]


def test_llama2_full_is_the_same_run_with_all_weights():
    full, lora = (load_recipe(FOLDER / f"llama2_{kind}.toml") for kind in ("full", "lora"))
    assert full.quantizer is None
    assert full.adapter is None
    # TRAPS: pure-bf16 full weights lose their updates.
    assert full.model.options.dtype == "float32"
    assert full.model.options.name == lora.model.options.name
    for same in ("data", "reference", "evaluation", "logging"):
        assert getattr(full, same) == getattr(lora, same)
    for same in ("loss", "schedule"):
        assert getattr(full, same).name == getattr(lora, same).name
        assert getattr(full, same).options == getattr(lora, same).options
    assert full.training.pairs_per_step == lora.training.pairs_per_step
    assert full.run.output_dir != lora.run.output_dir


def test_the_chat_template_of_llama2_lora_writes_llama_2s_format():
    """TRAPS: double BOS or EOS on chat data; prompts that are no prefix."""
    template = load_recipe(FOLDER / "llama2_lora.toml").model.options.chat_template
    tokenizer = tiny_tokenizer(chat_template=template)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hello "},
        {"role": "assistant", "content": "Hi!\n"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Bye."},
    ]

    def write(count: int, **options: bool) -> str:
        return tokenizer.apply_chat_template(messages[:count], tokenize=False, **options)

    end = tokenizer.eos_token
    first = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]"
    assert write(2, add_generation_prompt=True) == first
    assert write(3) == f"{first} Hi! {end}"
    assert write(5) == f"{first} Hi! {end}<s>[INST] And now? [/INST] Bye. {end}"
    assert write(5).startswith(write(4, add_generation_prompt=True))
