"""The recipe decides the mathematics, the engine only the speed: one sequence of losses, however it is computed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.recipes import losses, project, records, run

soak = pytest.mark.soak

#: Ways of computing the same steps.
WAYS = {
    "tiny micro-batches": ["training.tokens_per_microbatch=60"],
    "one micro-batch": ["training.tokens_per_microbatch=100000"],
    "padded": ['training.packing="off"'],
    "padded, small micro-batches": ['training.packing="off"', "training.tokens_per_microbatch=150"],
    "activation checkpointing": ["training.activation_checkpointing=true"],
    "live reference": ['reference.when="live"'],
    "stored reference": ['reference.when="precomputed"'],
}

QUICK = {"tiny micro-batches", "live reference"}

METRICS = "metrics.0.use=length"


@pytest.fixture(scope="module", params=["full", "lora"])
def reference_run(request, tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = project(folder, adapter=request.param == "lora")
    run(recipe, METRICS)
    return recipe, losses(folder / "run")


@pytest.mark.parametrize("way", [pytest.param(way, marks=[soak] * (way not in QUICK)) for way in WAYS])
def test_losses_are_the_same(reference_run, way, tmp_path):
    recipe, expected = reference_run
    run(recipe, *WAYS[way], into=tmp_path / "run")
    got = losses(tmp_path / "run")
    assert len(got) == len(expected) > 6
    assert got == pytest.approx(expected, abs=1e-5)


def test_training_changes_the_loss_and_the_first_is_ln_2(reference_run):
    _, expected = reference_run
    assert expected[0] == pytest.approx(math.log(2), abs=1e-6)
    assert expected[-1] < expected[0] - 0.01


def test_evaluation_is_the_same_too(reference_run, tmp_path):
    recipe, _ = reference_run
    run(recipe, "training.tokens_per_microbatch=60", into=tmp_path / "run")
    mine, theirs = (records(each, "eval") for each in (tmp_path / "run", recipe.parent / "run"))
    assert [record["step"] for record in mine] == [record["step"] for record in theirs]
    for one, two in zip(mine, theirs, strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen"):
            assert one[name] == pytest.approx(two[name], abs=1e-4)


#: Launchers of two processes on this machine, as README names them; both then take ``-m dpotrain``.
LAUNCHERS = {
    # Each with a rendezvous of its own: at the default port, two launches at the same time would join each other's.
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate launch": [
        # With --cpu it would start one process, whatever the number.
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
        *("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"),
    ],
}


@pytest.mark.parametrize(
    ("reference_run", "launcher"),
    [
        pytest.param("lora", "torchrun", marks=soak),
        pytest.param("full", "torchrun", marks=soak),
        pytest.param("lora", "accelerate launch", marks=soak),
        pytest.param("full", "accelerate launch", marks=soak),
    ],
    indirect=["reference_run"],
)
def test_two_processes_give_the_losses_of_one(reference_run, launcher, tmp_path):
    """TRAPS: values logged from one rank only; tokenizing on one process while the others wait."""
    recipe, expected = reference_run
    adapter = "[adapter]" in recipe.read_text()
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "dpotrain", "run", str(recipe)]
    for override in (
        f"run.output_dir={str(tmp_path / 'run')!r}",
        "training.tokens_per_microbatch=60",
        "checkpoints.every=4",
        METRICS,
        *(["exporters.0.use=merge"] if adapter else []),
    ):
        command += ["--set", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    for mine, theirs in zip(records(tmp_path / "run"), records(recipe.parent / "run"), strict=True):
        for name in ("length/margins", "length/chosen_tokens"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-5)
    assert (tmp_path / "run" / "merged" / "model.safetensors").exists() == adapter
    assert done.stdout.count("step 1/") == 1
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["step-00000004", "step-00000008", "step-00000010"]
