"""Configurations of other trainers become recipes: what each key became, and what was left out and why."""

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dpotrain.convert.configuration import read_configuration
from dpotrain.convert.convert import convert
from dpotrain.convert.report import report_lines
from dpotrain.convert.tools import detect
from dpotrain.convert.translation import Translation
from dpotrain.core.errors import RecipeError
from dpotrain.recipe.load import load_recipe
from tests.convert.converting import TRL_COMMAND, converted, document
from tests.support import dpotrain

CONFIGURATIONS = Path(__file__).parent / "configurations"
WHOLE = sorted(path.name for path in CONFIGURATIONS.iterdir())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return tmp_path


def left(words: str, **arguments) -> dict[str, str]:
    """Return the reasons of the keys of a command line that may change the training."""
    return {each.key: each.reason for each in converted(words, **arguments).translation.lost}


def test_ten_configurations_are_there():
    assert len(WHOLE) >= 10


@pytest.mark.parametrize("name", WHOLE)
def test_a_real_configuration_becomes_a_recipe_that_loads(name, snapshot):
    made = convert([str(CONFIGURATIONS / name)])
    assert made.fault == ""
    report = "\n".join(report_lines(made, Path("recipe.toml")))
    snapshot(f"{Path(name).stem}.txt", f"{report}\n\n{made.text}")


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_is_accounted_for(name):
    made = convert([str(CONFIGURATIONS / name)])
    t = made.translation
    told = {*t.translated, *(each.key.partition("[")[0].partition(":")[0] for each in t.left)}
    given = {key for key, value in t.configuration.values.items() if value not in (None, False, "none", "no")}
    assert given - told == set()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            [*shlex.split(TRL_COMMAND), "--loss_type", "new"],
            'loss_type = "new": dpotrain has no such loss; it has dpo',
        ),
    ],
)
def test_an_objective_that_dpotrain_does_not_have_is_refused_by_name(words, reason, folder):
    result = dpotrain("convert", "--", *words)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "nothing was written" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["pairs.jsonl"]


def test_without_leaves_a_key_out_and_lists_it(folder):
    asked = f"{TRL_COMMAND} --loss_type ipo --f_divergence_type forward_kl"
    unwanted = dpotrain("convert", "--", *shlex.split(asked))
    assert unwanted.exit_code == 2
    assert (
        "\nto convert the rest nevertheless: --without f_divergence_type\nnothing was written\n"
        in unwanted.stderr
    )
    result = dpotrain("convert", str(CONFIGURATIONS / "swift_lora.sh"), "--without", "rpo_alpha")
    assert result.exit_code == 1
    assert "  rpo_alpha = 0.1: left out, as --without says\n" in result.output
    assert load_recipe("swift_lora.toml").document["loss"] == {
        "use": "dpo",
        "divergence": "reverse-kl",
        "tail_weight": 1.0,
        "beta": 0.1,
        "label_smoothing": 0.0,
    }
    refused = dpotrain("convert", str(CONFIGURATIONS / "swift_lora.sh"), "--without", "alpha")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: --without alpha: swift_lora.sh has no such key\n",
    )


@pytest.mark.parametrize(
    ("command", "pairs"),
    [
        ("accelerate launch --num_processes 4 --mixed_precision bf16 dpo.py {}", 8 * 4 * 2),
        ("accelerate launch --multi_gpu --num_processes=4 dpo.py {}", 8 * 4 * 2),
        ("torchrun --nproc_per_node=2 --nnodes 3 dpo.py {}", 8 * 6 * 2),
        ("torchrun --nproc-per-node 2 -m trl.scripts.dpo {}", 8 * 2 * 2),
        ("deepspeed --num_gpus 2 dpo.py {}", 8 * 2 * 2),
        ("trl dpo --num_processes 2 {}", 8 * 2 * 2),
        ("python dpo.py {}", 8 * 2),
    ],
)
def test_pairs_per_step_counts_batches_accumulation_and_processes(command, pairs):
    words = command.format(
        "--model_name_or_path gpt2 --dataset_name d --gradient_accumulation_steps 2 --use_peft False"
    )
    assert document(words)["training"]["pairs_per_step"] == pairs
    text = document(words, processes=5)["training"]["pairs_per_step"]
    assert text == 8 * 2 * 5


def test_one_process_is_assumed_and_said():
    made = converted(TRL_COMMAND)
    assert made.assumed
    assert "one process is assumed, --processes N sets another number" in "\n".join(
        report_lines(made, Path("r"))
    )
    assert "assumed" not in "\n".join(report_lines(converted(TRL_COMMAND, processes=1), Path("r")))


def test_defaults_of_the_other_tool_are_written_down():
    made = document(TRL_COMMAND)
    assert made["optimizer"]["lr"] == 1e-6
    assert made["training"]["epochs"] == 3
    assert made["training"]["pairs_per_step"] == 8
    assert made["schedule"]["use"] == "linear"
    assert made["schedule"]["warmup_fraction"] == 0.0
    assert "# learning_rate, TRL's default" in converted(TRL_COMMAND).text
    swift = document("swift rlhf --model m --dataset d")
    assert (swift["adapter"]["rank"], swift["adapter"]["alpha"], swift["optimizer"]["lr"]) == (8, 32, 1e-4)
    assert swift["optimizer"]["betas"] == [0.9, 0.95]
    assert swift["optimizer"]["weight_decay"] == 0.1
    assert swift["training"]["pairs_per_step"] == 16
    assert document("swift rlhf --model m --dataset d --tuner_type full")["optimizer"]["lr"] == 1e-5


def test_what_trl_ignores_is_said():
    notes = "\n".join(converted(f"{TRL_COMMAND} --label_smoothing 0.1 --padding_free").translation.notes)
    assert "label_smoothing = 0.1: TRL 1.16 ignores it with loss_type sigmoid" in notes
    assert "padding_free: TRL 1.16 warns and pads all the same" in notes
    reasons = [each.reason for each in converted(f"{TRL_COMMAND} --lora_r 8").translation.left]
    assert "TRL ignores it without use_peft, which trains all weights" in reasons
    left_out = converted(f"{TRL_COMMAND} --ref_model_sync_steps 64").translation.left
    assert "it has no effect without sync_ref_model" in [each.reason for each in left_out]
    notes = "\n".join(converted(f"{TRL_COMMAND} --use_peft").translation.notes)
    assert "TRL sets all dropout to 0" in notes
    assert document(f"{TRL_COMMAND} --use_peft")["adapter"]["dropout"] == 0.0
    assert document(f"{TRL_COMMAND} --use_peft --disable_dropout false")["adapter"]["dropout"] == 0.05


def test_trl_evaluates_the_test_split_only_with_a_strategy():
    assert "eval_split" not in document(TRL_COMMAND)["data"]
    made = document(f"{TRL_COMMAND} --eval_strategy steps --eval_steps 50")
    assert (made["data"]["eval_split"], made["evaluation"]["every"]) == ("test", 50)
    assert "eval_split" not in document(f"{TRL_COMMAND} --eval_strategy no --eval_steps 50")["data"]


@pytest.mark.parametrize(
    ("options", "place", "value"),
    [
        ("--optim adamw_bnb_8bit", "optimizer.use", "adamw-8bit"),
        ("--optim paged_adamw_32bit", "optimizer.use", "adamw"),
        ("--adam_beta1 0.8", "optimizer.betas", [0.8, 0.999]),
        ("--max_grad_norm 0", "training.max_grad_norm", False),
        ("--max_grad_norm 0.2", "training.max_grad_norm", 0.2),
        ("--bf16 false", "training.precision", "fp32"),
        ("--max_steps 7", "training.steps", 7),
        ("--warmup_steps 10", "schedule.warmup_steps", 10),
        ("--warmup_steps 0.1", "schedule.warmup_fraction", 0.1),
        ("--lr_scheduler_type constant_with_warmup", "schedule.use", "constant"),
        ("--save_strategy no", "checkpoints.every", False),
        ("--report_to wandb tensorboard", "loggers", ["wandb", "tensorboard"]),
        ("--use_liger_kernel", "model.use", None),
        ("--learning_rate 5e-7", "optimizer.lr", 5e-7),
        ("--precompute_ref_log_probs", "reference.when", "precomputed"),
        ("--sync_ref_model", "reference.update", {"every": 512, "share": 0.6}),
        (
            "--sync_ref_model --ref_model_sync_steps 64 --ref_model_mixup_alpha 1",
            "reference.update",
            {"every": 64, "share": 1},
        ),
        ("--dtype bfloat16", "model.dtype", "bfloat16"),
        ("--use_peft --load_in_4bit", "quantizer.use", "bnb-4bit"),
    ],
)
def test_values(options, place, value):
    if place == "model.use":  # its recipe needs a package
        assert 'use = "liger"' in converted(f"{TRL_COMMAND} {options}").text
        return
    found = document(f"{TRL_COMMAND} {options}")
    for key in place.split("."):
        found = found[key]
    assert ([each["use"] for each in found] if place == "loggers" else found) == value


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ("--fp16", "fp16", "float16 needs loss scaling; training.precision is bf16 instead"),
        (
            "--optim sgd",
            "optim",
            'optimizer.use has "adamw", "adamw-8bit", "adamw-8bit-paged", "adafactor", "lion", "muon"',
        ),
        (
            "--lr_scheduler_type polynomial",
            "lr_scheduler_type",
            "schedule.use has cosine, linear, constant, wsd, inverse-sqrt; cosine is written",
        ),
        ("--num_train_epochs 0.5", "num_train_epochs", "training.epochs takes a whole number"),
        ("--never_heard_of 3", "never_heard_of", "dpotrain does not know this key"),
    ],
)
def test_what_is_lost_is_listed_with_the_reason(options, key, reason):
    assert reason in left(f"{TRL_COMMAND} {options}")[key]


@pytest.mark.parametrize(
    "command",
    [
        "swift rlhf --rlhf_type kto --model m --dataset d",
        "swift rlhf --model m --dataset d --loss_type kto_pair",
        "llamafactory-cli train --stage sft --model_name_or_path m",
        "llamafactory-cli train --stage dpo --pref_loss kto_pair --model_name_or_path m",
        "llamafactory-cli train --stage dpo --finetuning_type full --quantization_bit 4 --model_name_or_path m",
        "axolotl train --rl orpo --base_model m",
        f"{TRL_COMMAND} --load_in_4bit",
    ],
)
def test_other_objectives_are_refused(command):
    with pytest.raises(RecipeError, match="nothing was written"):
        converted(command)


def test_a_config_file_on_a_command_line_is_read_and_overridden(folder):
    (folder / "c.yaml").write_text(
        "model_name_or_path: gpt2\ndataset_name: d\nbeta: 0.3\nlearning_rate: 5e-7\n"
    )
    made = document("trl dpo --config c.yaml --beta 0.2")
    assert (made["loss"]["beta"], made["optimizer"]["lr"]) == (0.2, 5e-7)
    (folder / "l.yaml").write_text("stage: dpo\nmodel_name_or_path: gpt2\ndataset: d\npref_beta: 0.3\n")
    made = document("llamafactory-cli train l.yaml learning_rate=1e-5")
    assert (made["loss"]["beta"], made["optimizer"]["lr"]) == (0.3, 1e-5)


def test_a_key_that_stands_there_twice_is_said(folder):
    (folder / "c.yaml").write_text("dataset_name: a\nmodel_name_or_path: gpt2\ndataset_name: b\n")
    made = convert(["c.yaml"])
    assert "dataset_name stands there several times, and the last counts" in made.translation.notes
    assert 'name = "b"' in made.text


def test_variables_of_a_script_are_filled_in(folder):
    script = (
        "#!/bin/bash\nset -e\nMODEL=gpt2\nexport LR=1e-6  # small\ntrl dpo --model_name_or_path $MODEL \\\n"
    )
    (folder / "train.sh").write_text(
        f"{script}  --dataset_name d --learning_rate ${{LR}} --output_dir out\necho done\n"
    )
    made = document("train.sh")
    assert (made["model"]["name"], made["optimizer"]["lr"]) == ("gpt2", 1e-6)


def test_names_of_llama_factorys_data_are_looked_up(folder):
    shutil.copy(CONFIGURATIONS / "llama_factory_qwen3_lora.yaml", folder)
    (folder / "data").mkdir()
    entry = {
        "file_name": "dpo_en_demo.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "chosen", "rejected": "rejected"},
    }
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"dpo_en_demo": entry}))
    (folder / "data" / "dpo_en_demo.json").write_text("[]")
    made = document("llama_factory_qwen3_lora.yaml")["data"]
    assert made["name"] == "data/dpo_en_demo.json"
    assert (made["format"], made["columns"]) == ("sharegpt", {"conversations": "talk"})


def test_a_tool_is_recognised_or_asked_for(folder):
    (folder / "few.yaml").write_text("learning_rate: 1.0e-6\n")
    with pytest.raises(RecipeError) as caught:
        convert(["few.yaml"])
    assert str(caught.value) == (
        "few.yaml: it has keys of no tool; say which: --from trl | axolotl | llama-factory | ms-swift"
    )
    assert convert(["few.yaml"], tool="trl").translation.tool.name == "TRL"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "- 1\n", "a.yaml holds no keys with values"),
        ("a.yaml", "a: [1\n", "a.yaml is not YAML"),
        ("a.sh", "echo hello\n", "a.sh has no command with options"),
        ("a.sh", "trl dpo --a 'x\n", "a command cannot be read"),
        ("a.sh", "trl dpo --beta 1\ntrl dpo --beta 2\n", "a.sh has 2 commands with options"),
        ("a.toml", "", "a.toml is a TOML file, as recipes are: dpotrain check a.toml"),
        ("a.py", "", "a.py is a Python program, which is not read"),
    ],
)
def test_what_cannot_be_read_is_said(name, text, message, folder):
    (folder / name).write_text(text)
    with pytest.raises(RecipeError) as caught:
        convert([name])
    assert message in str(caught.value)
    with pytest.raises(RecipeError, match="there is no file"):
        convert(["missing.yaml"])


def test_the_exit_code_says_whether_something_was_lost(folder):
    command = shlex.split(TRL_COMMAND)
    same = dpotrain("convert", "-o", "a.toml", "--", *command)
    assert (same.exit_code, same.stderr) == (0, "")
    assert load_recipe("a.toml").document["data"]["name"] == "pairs.jsonl"
    lost = dpotrain("convert", "--force", "-o", "a.toml", "--", *command, "--never_heard_of", "3")
    assert lost.exit_code == 1
    there = dpotrain("convert", "-o", "a.toml", "--", *command)
    assert (there.exit_code, there.stderr) == (
        2,
        "error: a.toml exists already; --force overwrites it, -o RECIPE writes another file\n",
    )


def test_the_recipe_can_be_printed(folder):
    result = dpotrain("convert", "-o", "-", "--", *shlex.split(TRL_COMMAND))
    Path("printed.toml").write_text(result.stdout)
    assert load_recipe("printed.toml").document["model"]["name"] == "gpt2"
    assert "keys translated" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["pairs.jsonl", "printed.toml"]


def test_a_recipe_that_does_not_load_is_written_and_said():
    made = converted(f"{TRL_COMMAND} --beta -1")
    assert "[loss] beta: dpo" in made.fault
    assert "the recipe does not load yet:" in report_lines(made, Path("r.toml"))


@pytest.mark.parametrize("name", WHOLE)
def test_a_value_of_another_kind_is_no_crash(name):
    configuration = read_configuration([str(CONFIGURATIONS / name)])
    tool = detect(configuration)
    for key in configuration.values:
        for value in ("x", [1], {"a": 1}):
            odd = replace(configuration, values=configuration.values | {key: value})
            translation = Translation(tool, odd, processes=1, losses=["dpo", "ipo", "hinge"])
            try:
                tool.translate(translation)
                translation.finish()
                translation.draft.text()
            except RecipeError:
                pass  # an objective that does not exist


def test_secrets_are_not_shown(folder):
    result = dpotrain("convert", "-o", "a.toml", "--", *shlex.split(f"{TRL_COMMAND} --hub_token hf_abcdefgh"))
    assert "hf_abcdefgh" not in result.output + Path("a.toml").read_text()
    assert "hub_token = …: dpotrain does not know this key" in result.output


def test_nothing_heavy_is_imported():
    import subprocess

    code = (
        "import sys; from dpotrain.convert.convert import convert\n"
        f"convert({shlex.split(TRL_COMMAND)!r})\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
