"""``dpotrain chat``: the result of a real run answers, and so does the policy before it."""

import json
import shutil
from pathlib import Path

import pytest

from dpotrain.testing.runs import run_recipe
from tests.run.recipes import project, run
from tests.support import dpotrain

#: Greedy, so that samples and chat must agree to the letter.
SAMPLES = """
[samples]
prompts = ["May I have tea?"]
max_tokens = 12
[checkpoints]
every = 2
[evaluation]
every = 2
"""
LORA = '[adapter]\nuse = "lora"\nrank = 4\n[optimizer]\nlr = 0.02\n'
CONVERSATIONS = [
    {
        "prompt": [{"role": "user", "content": f"May I have {row}?"}],
        "chosen": [{"role": "assistant", "content": f"Certainly, {row}."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    for row in range(24)
]


@pytest.fixture(scope="module", params=["lora", "4 bits", "merged", "full"])
def trained(request, tmp_path_factory) -> Path:
    """The run folder of a chat model; its data has gone since."""
    folder = tmp_path_factory.mktemp("chat")
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    ways = {
        "lora": LORA,
        "4 bits": LORA + '[quantizer]\nuse = "bnb-4bit"\n',
        "merged": LORA.replace("rank = 4", "rank = 4\nmerge = true"),
        "full": "[optimizer]\nlr = 0.005\n",
    }
    run_recipe(SAMPLES + ways[request.param], folder, data=data)
    data.unlink()
    return folder / "run"


def sampled(run: Path) -> dict[int, str]:
    """What the run's own samples answered, by step."""
    lines = map(json.loads, (run / "samples.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line["samples"][0]["answer"] for line in lines}


def say(run: Path, *more: str, prompt: str = "May I have tea?"):
    return dpotrain("chat", str(run), "--prompt", prompt, "--max-tokens", "12", *more)


def shown(text: str) -> str:
    """As a terminal may show it."""
    from dpotrain.core.formats import printable

    return printable(text).strip()


def test_final_answers_as_the_run_s_last_samples_did(trained):
    ended = say(trained)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.strip() == shown(sampled(trained)[4])
    assert sampled(trained)[4] != sampled(trained)[0]


def test_beside_it_the_policy_before_training(trained):
    ended = say(trained, "--compare")
    before, after = ended.stdout.removeprefix("before training\n").split("final/ (step 4)\n")
    assert (before.strip(), after.strip()) == (shown(sampled(trained)[0]), shown(sampled(trained)[4]))


@pytest.mark.parametrize("checkpoint", ["2", "last"])
def test_a_checkpoint_answers_as_the_samples_of_its_step_did(trained, checkpoint):
    step = 2 if checkpoint == "2" else 4
    ended = say(trained, "--checkpoint", checkpoint, "--compare")
    before, after = ended.stdout.removeprefix("before training\n").split(f"the checkpoint of step {step}\n")
    assert (before.strip(), after.strip()) == (shown(sampled(trained)[0]), shown(sampled(trained)[step]))


def test_what_there_is_not_is_told(trained, tmp_path):
    ended = say(trained, "--checkpoint", "3")
    assert (ended.exit_code, ended.stderr) == (
        2,
        'error: there is no checkpoint "3"; there are best, last, and steps 2, 4\n',
    )
    ended = say(tmp_path)
    assert ended.exit_code == 2
    assert "has no recipe.toml, so it is no run folder" in ended.stderr
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    ended = say(tmp_path / "run")
    assert ended.exit_code == 1
    assert "--checkpoint last" in ended.stderr
    spoiled = tmp_path / "run" / "checkpoints" / "step-00000002" / "trained.safetensors"
    spoiled.write_bytes(b"")
    ended = say(tmp_path / "run", "--checkpoint", "2")
    assert ended.exit_code == 1
    assert "is damaged" in ended.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run over plain text."""
    recipe = project(tmp_path_factory.mktemp("plain"), adapter=True)
    best = ["evaluation.every=1", "evaluation.best=true", "optimizer.lr=0.1", "loss.beta=1.0"]
    metric = ['checkpoints.best="rewards/margins"', 'samples.prompts=["bake bread"]', "samples.max_tokens=12"]
    run(recipe, *best, *metric, "training.steps=8")
    return recipe.parent / "run"


def test_plain_text_is_continued_and_has_no_system_prompt(plain):
    ended = say(plain, prompt="bake bread")
    best = json.loads((plain / "summary.json").read_text())["final_step"]
    assert best < 8
    assert ended.stdout.strip() == shown(sampled(plain)[best])
    ended = say(plain, "--system", "be brief")
    assert ended.exit_code == 2
    assert "--system" in ended.stderr


def test_best_is_the_checkpoint_of_the_best_evaluation(plain):
    best = json.loads((plain / "summary.json").read_text())["final_step"]
    ended = say(plain, "--checkpoint", "best", "--compare", prompt="bake bread")
    assert f"the checkpoint of step {best}\n{shown(sampled(plain)[best])}" in ended.stdout


def test_lines_of_a_pipe_are_turns_and_drawn_answers_are_the_same_for_a_seed(plain):
    drawn = ("--temperature", "1", "--top-p", "0.9", "--max-tokens", "8")
    ended = dpotrain("chat", str(plain), *drawn, "--seed", "3", input="bake\n/reset\nbake\n")
    first, reset, second, *_ = ended.stdout.splitlines()
    assert (first, reset) == (second, "the conversation begins anew")
    other = dpotrain("chat", str(plain), *drawn, "--seed", "4", input="bake\n")
    assert other.stdout.splitlines()[0] != first
    ended = dpotrain("chat", str(plain), "--prompt", "-", "--max-tokens", "12", input="bake bread\n")
    assert ended.stdout == say(plain, prompt="bake bread").stdout
    assert dpotrain("chat", str(plain), "--prompt", "-", input=" \n").exit_code == 2
