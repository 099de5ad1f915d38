"""``dpotrain init``: a recipe that loads, by flags or questions, from what is known of model, data and machine."""

import json
import sys
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from dpotrain.cli import main
from dpotrain.recipe.load import load_recipe
from dpotrain.scaffold.first_recipe import looking
from dpotrain.scaffold.first_recipe.answers import Answers, choose, wants_four_bit, wants_lora
from dpotrain.scaffold.first_recipe.looking import Data, Machine, Model, look_at_model
from dpotrain_plugins.losses import LOSSES
from tests.docs.generated import ROOT
from tests.support import dpotrain, tiny_tokenizer

GB = 2**30


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(looking, "look_at_machine", lambda: Machine(gpu=True, memory=24 * GB))
    return tmp_path


def pairs(path: Path, number: int = 300, **columns: str) -> Path:
    """Write rows of a prompt and two answers."""
    names = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"} | columns
    row = {names["prompt"]: "What is 2 + 2?", names["chosen"]: "4, of course.", names["rejected"]: "5."}
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(number)))
    return path


def model_folder(path: Path, *, template: bool = True, billions: float = 0.1) -> Path:
    """Write what a model's folder says of its size and its template."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    save_file({"weight": numpy.zeros(1, numpy.float32)}, path / "model-1.safetensors")
    index = {
        "metadata": {"total_size": int(billions * 1e9) * 2},
        "weight_map": {"weight": "model-1.safetensors"},
    }
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    tiny_tokenizer(path, chat_template=template)
    return path


def ask(*words: str, answers: str, monkeypatch):
    """Run it as on a terminal."""
    monkeypatch.setattr("dpotrain.cli.init.is_terminal", lambda: True)
    return CliRunner().invoke(main, ["init", *words], input=answers)


EXAMPLE = [
    "--model_name_or_path=meta-llama/Llama-2-7b-hf", "--dataset_name=trl-lib/ultrafeedback_binarized", "--beta=0.1",
    "--num_train_epochs=1", "--logging_steps=10", "--save_steps=200", "--use_wandb",
]  # fmt: skip
LORA = ["--output_dir=runs/llama2-7b-dpo-lora", "--use_lora", "--use_4bit", "--lora_r=64", "--lora_alpha=16"]


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("llama2_lora.toml", LORA),
        ("llama2_full.toml", ["--output_dir=runs/llama2-7b-dpo-full"]),
    ],
)
def test_the_flags_of_training_scripts_give_the_recipes_of_their_examples(recipe, flags):
    result = dpotrain("init", "made.toml", *EXAMPLE, *flags)
    assert result.exit_code == 0, result.output
    made, meant = load_recipe("made.toml").document, load_recipe(ROOT / "recipes" / recipe).document
    for each in (made, meant):
        each["loggers"][0].pop("project")
        each["model"]["chat_template"] = each["model"]["chat_template"].strip()
        each["data"] = {k: v for k, v in each["data"].items() if not k.startswith("eval_")}
    assert made == meant


def test_every_key_is_explained_and_the_recipe_loads(folder, snapshot):
    model_folder(folder / "model")
    pairs(folder / "pairs.jsonl")
    result = dpotrain("init", "--model", "model", "--data", "pairs.jsonl")
    assert result.exit_code == 0
    text = Path("recipe.toml").read_text()
    assert load_recipe("recipe.toml").document["run"]["output_dir"] == "runs/model-dpo"
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith(("#", "use = "))]
    assert [line for line in keys if "#" not in line] == []
    snapshot("init.txt", f"{result.output}\n{text}")


@pytest.mark.parametrize("loss", ["dpo", "ipo", "hinge"])
@pytest.mark.parametrize("how", ["--full", "--lora", "--4bit --lora"])
@pytest.mark.parametrize("model", ["org/model-7B", "org/tiny-135M-Instruct", "org/unknown", "a-folder"])
def test_all_that_it_writes_loads(loss, how, model, folder):
    if model == "a-folder":
        model_folder(folder / model, template=False)
    result = dpotrain("init", "--model", model, "--data", "org/data", "--loss", loss, *how.split())
    assert result.exit_code == 0, result.output
    document = load_recipe("recipe.toml").document
    assert document["loss"]["use"] == loss
    assert ("adapter" in document, "quantizer" in document) == ("lora" in how, "4bit" in how)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_recipe_of_every_loss_loads(loss, folder):
    result = dpotrain("init", "--model", "org/model-7B", "--data", "org/data", "--loss", loss.name)
    assert result.exit_code == 0, result.output
    written = load_recipe("recipe.toml").document["loss"]
    assert written.get("beta") == loss.Options.model_fields["beta"].default


def test_a_beta_is_refused_for_a_loss_without_one(folder):
    result = dpotrain("init", "--model", "m", "--data", "d", "--loss", "orpo", "--beta", "0.1")
    assert (result.exit_code, result.stderr) == (2, "error: --beta: the loss orpo has no beta\n")


def test_lengths_are_those_of_the_flags_and_must_go_together(folder):
    words = ["init", "--model", "org/model-7B", "--data", "org/data", "--max_prompt_length", "512"]
    assert dpotrain(*words, "--max_length", "2048").exit_code == 0
    data = load_recipe("recipe.toml").data
    assert (data.max_length, data.max_prompt_length) == (2048, 512)
    refused = dpotrain(*words, "--max_length", "512", "--force")
    assert refused.exit_code == 2
    assert "max_prompt_length = 512 must be less than max_length = 512" in refused.stderr


def test_a_file_is_not_overwritten(folder):
    (folder / "recipe.toml").write_text("mine")
    result = dpotrain("init", "--model", "m", "--data", "d")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: recipe.toml exists already; name another file, or pass --force to overwrite it\n",
    )
    assert (folder / "recipe.toml").read_text() == "mine"
    assert dpotrain("init", "--model", "m", "--data", "d", "--force").exit_code == 0


def test_nobody_is_asked_off_a_terminal():
    result = dpotrain("init")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --model and --data must be given where nobody can be asked\n",
    )


def test_a_person_is_asked_for_what_no_flag_says(folder, monkeypatch):
    model_folder(folder / "model", billions=8)
    pairs(folder / "pairs.jsonl")
    given = "model\nmissing.jsonl\npairs.jsonl\nlots\n80GB\n\nn\nipo\n"
    result = ask(answers=given, monkeypatch=monkeypatch)
    assert result.exit_code == 0, result.output
    assert "  model: 8.0 billion parameters, a chat template\n" in result.output
    assert '\n  data.name: there is no file "missing.jsonl"' in result.output
    assert "Error: 'lots' is not a size; write it as 24GB\n" in result.output
    assert "  pairs.jsonl: 300 rows with prompt, chosen, rejected; format standard\n" in result.output
    document = load_recipe("recipe.toml").document
    assert document["loss"]["use"] == "ipo"
    assert "quantizer" not in document
    assert document["adapter"]["use"] == "lora"


def test_yes_asks_nothing(monkeypatch):
    result = ask("--model", "m", "--data", "d", "--yes", answers="", monkeypatch=monkeypatch)
    assert result.exit_code == 0
    assert Path("recipe.toml").exists()


def test_a_flag_is_not_asked_for(monkeypatch):
    words = ["--model", "m-7b", "--data", "d", "--memory", "24GB", "--lora", "--4bit", "--loss", "dpo"]
    assert ask(*words, answers="", monkeypatch=monkeypatch).exit_code == 0


@pytest.mark.parametrize(
    ("billions", "memory", "lora", "four_bit"),
    [
        (0.135, 24, False, False),
        (7, 24, True, False),
        (7, 16, True, True),
        (70, 80, True, True),
        (7, 80, True, False),
    ],
)
def test_lora_and_4_bits_are_suggested_by_size_and_memory(billions, memory, lora, four_bit):
    model, machine = Model("m", int(billions * 1e9)), Machine(gpu=True, memory=memory * GB)
    assert wants_lora(model, machine) is lora
    assert wants_four_bit(model, machine) is four_bit


def test_what_will_hardly_fit_is_said():
    result = dpotrain("init", "--model", "m-70b", "--data", "d", "--memory", "24GB")
    assert "note: it may not fit into memory; dpotrain plan says what it takes" in result.output
    assert "note:" not in dpotrain("init", "b.toml", "--model", "m-7b", "--data", "d").output


@pytest.mark.parametrize(("rows", "fraction"), [(10, None), (300, 0.1), (10_000, 0.05), (60_000, 0.02)])
def test_the_held_out_share_follows_from_the_number_of_rows(rows, fraction):
    data = Data("d", rows, ["prompt", "chosen", "rejected"], ["train"], "standard")
    choices = choose(Answers(Model("m"), data, Machine(gpu=True, memory=GB)))
    assert choices.eval_fraction == fraction
    assert rows < 100 or rows * 0.9 // choices.pairs_per_step >= 18
    tested = Data("d", rows, (), ["train", "test"], "standard")
    assert choose(Answers(Model("m"), tested, Machine(gpu=True, memory=GB))).eval_split == "test"


def test_plain_rows_are_one_user_turn_for_a_model_that_chats(folder):
    model_folder(folder / "chats")
    model_folder(folder / "base", template=False)
    pairs(folder / "pairs.jsonl")
    dpotrain("init", "a.toml", "--model", "chats", "--data", "pairs.jsonl")
    assert load_recipe("a.toml").document["data"]["format"] == "question"
    dpotrain("init", "b.toml", "--model", "base", "--data", "pairs.jsonl")
    document = load_recipe("b.toml").document
    assert document["data"]["format"] == "auto"
    assert document["model"]["chat_template"] == "chatml"


def test_data_that_no_formatter_reads_is_said_and_the_recipe_written(folder):
    pairs(folder / "odd.jsonl", prompt="a", chosen="b", rejected="c")
    result = dpotrain("init", "--model", "m", "--data", "odd.jsonl")
    assert result.exit_code == 0
    assert "note: the data cannot be read yet. No formatter recognises the data" in result.output
    missing = dpotrain("init", "x.toml", "--model", "m", "--data", "none.jsonl")
    assert missing.exit_code == 3
    assert not Path("x.toml").exists()


def test_the_run_folder_is_one_that_is_not_there(folder):
    (folder / "runs" / "m-dpo-lora").mkdir(parents=True)
    dpotrain("init", "--model", "org/m", "--data", "d")
    assert load_recipe("recipe.toml").document["run"]["output_dir"] == "runs/m-dpo-lora-2"


@pytest.mark.parametrize(
    ("name", "parameters", "template"),
    [
        ("meta-llama/Llama-2-7b-hf", 7_000_000_000, None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000, True),
        ("Qwen/Qwen2.5-0.5B", 500_000_000, None),
        ("google/gemma-2-9b-it", 9_000_000_000, True),
        ("openai-community/gpt2", None, None),
    ],
)
def test_a_hub_name_says_the_size(name, parameters, template):
    found = look_at_model(name)
    assert (found.parameters, found.has_template) == (parameters, template)


def test_wrong_flags_are_refused():
    wrong = dpotrain("init", "--model", "m", "--data", "d", "--loss", "dbo")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        'error: --loss: there is no loss "dbo"; did you mean "dpo"?\n',
    )
    both = dpotrain("init", "--model", "m", "--data", "d", "--full", "--4bit")
    assert both.stderr == "error: --4bit needs --lora: weights in 4 bits cannot be trained themselves\n"


def test_batch_and_accumulation_make_the_pairs_of_a_step():
    flags = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "8"]
    dpotrain("init", "--model", "m", "--data", "d", *flags)
    assert load_recipe("recipe.toml").document["training"]["pairs_per_step"] == 16


def test_the_machine_is_found_without_torch():
    import subprocess

    code = (
        "import sys; from dpotrain.scaffold.first_recipe.looking import look_at_machine\n"
        "assert look_at_machine().memory > 2**20\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_gpu_is_the_machine(folder, monkeypatch):
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 24564\necho 81559\n")
    program.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(folder))
    assert looking.look_at_machine() == Machine(gpu=True, memory=24564 * 2**20)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert not looking.look_at_machine().gpu


def test_the_size_of_a_folder_without_an_index(folder):
    (folder / "m").mkdir()
    save_file({"weight": numpy.zeros(1000, numpy.float32)}, folder / "m" / "model.safetensors")
    (folder / "m" / "config.json").write_text(json.dumps({"text_config": {"dtype": "float32"}}))
    found = look_at_model("m")
    assert 1000 <= found.parameters < 1100
    assert found.has_template is None
    (folder / "m" / "chat_template.jinja").write_text("{{ messages }}")
    assert look_at_model("m").has_template


def test_a_model_in_the_hubs_cache_is_looked_at(folder, monkeypatch):
    model_folder(folder / "snapshot", billions=3)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: str(folder / "snapshot" / file)
    )
    assert look_at_model("org/some-name").describe() == "3.0 billion parameters, a chat template"


def test_splits_and_columns_of_a_folder_are_written(folder):
    (folder / "set").mkdir()
    pairs(folder / "set" / "train.jsonl", 100)
    pairs(folder / "set" / "test.jsonl", 30)
    dpotrain("init", "--model", "m", "--data", "set")
    document = load_recipe("recipe.toml").document
    assert document["data"]["eval_split"] == "test"
    pairs(folder / "few.jsonl", 10)
    dpotrain("init", "few.toml", "--model", "m", "--data", "few.jsonl")
    assert (
        "evaluation" not in load_recipe("few.toml").document or not load_recipe("few.toml").evaluation.every
    )


def test_what_does_not_load_is_not_written(folder):
    model_folder(folder / "broken")
    (folder / "broken" / "model.safetensors.index.json").write_text("{}")
    result = dpotrain("init", "--model", "broken", "--data", "d")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: recipe.toml: 1 error\n  [model]: broken/model.safetensors.index.json"
    )
    assert not (folder / "recipe.toml").exists()
