"""The controlled experiment: DPO teaches the preferred style, whole, from the recipe to summary.json.

These tests assert that training learns, not only that a loss falls.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dpotrain

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "quickstart.toml"

#: What no step of this recipe needs, and a package or two of the many that each would bring along.
NEEDLESS = {
    *("datasets", "pyarrow", "pandas", "multiprocess", "aiohttp", "fsspec", "requests"),
    *("peft", "bitsandbytes", "torchvision", "torchaudio", "tensorflow", "jax", "flash_attn"),
    *("scipy", "sklearn", "numba", "networkx", "matplotlib", "IPython"),
    *("wandb", "mlflow", "trackio", "tensorboard", "torch.utils.tensorboard"),
    *("transformers.trainer", "transformers.pipelines", "transformers.data", "transformers.optimization"),
    *("transformers.models.auto.processing_auto", "transformers.models.auto.image_processing_auto"),
    "accelerate.test_utils",
}
#: The models of transformers that are imported: the one that is trained, and what finds it.
MODELS = {"auto", "llama", "encoder_decoder"}

#: The command line, which says at its end what was imported, and what garbage collection leaves out.
MAIN = """
import gc, json, sys
from dpotrain.cli import main
try:
    main()
finally:
    print(json.dumps([sorted(sys.modules), gc.isenabled(), gc.get_freeze_count()]))
"""


def _assert_learnt(demo: dict) -> None:
    assert 0.35 <= demo["preferred_before"] <= 0.65
    assert demo["preferred_after"] > 0.9
    # A policy that says nothing but "Certainly!" has not learnt what was wanted.
    assert demo["answered_after"] > 0.85
    assert len(demo["table"]["rows"]) == 3


def test_the_quickstart_command_teaches_courtesy(tmp_path):
    into = f"run.output_dir={json.dumps(str(tmp_path / 'run'))}"
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "run", str(RECIPE), "--set", into],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    imported, collects, left_out = json.loads(done.stdout.splitlines()[-1])
    assert NEEDLESS & {*imported} == set()
    models = {name.split(".")[2] for name in imported if name.startswith("transformers.models.")}
    assert models <= MODELS
    # The imports would be searched for garbage in every full collection.
    assert collects
    assert left_out > 200_000
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["status"] == "finished"
    _assert_learnt(summary["demo"])
    shown = done.stdout + done.stderr
    for request, _, after in summary["demo"]["table"]["rows"]:
        assert request.split()[-1] in shown
        assert after.split()[-1] in shown


@pytest.mark.soak
def test_from_python_the_other_preference_is_learnt_as_well(tmp_path):
    """With chosen and rejected exchanged everything turns round: it is the preference that is learnt."""
    recipe = dpotrain.load_recipe(
        RECIPE, {"run.output_dir": str(tmp_path / "run"), "data.prefer": "curt", "data.seed": 5}
    )
    outcome = dpotrain.train(recipe)
    assert isinstance(outcome, dpotrain.Outcome)
    assert outcome.status == "finished"
    demo = dict(outcome.sections["demo"])
    assert demo["preferred_style"] == "curt"
    _assert_learnt(demo)
    assert outcome.last_evaluation["rewards/accuracies"] > 0.95
    assert outcome.last_evaluation["loss"] < outcome.first_evaluation["loss"]


def test_the_weights_are_the_same_bit_for_bit_with_and_without_the_experiment(tmp_path):
    import torch
    from safetensors.torch import load_file

    final = []
    for samples in (0, 8):
        overrides = {
            "run.output_dir": str(tmp_path / str(samples)),
            "data.samples": samples,
            "data.pairs": 40,
            "training.steps": 3,
            "training.epochs": 1,
            "evaluation.every": 100,
            "checkpoints.every": 100,
        }
        outcome = dpotrain.train(dpotrain.load_recipe(RECIPE, overrides))
        assert ("demo" in outcome.sections) == bool(samples)
        final.append({file.name: load_file(file) for file in sorted(outcome.final.glob("*.safetensors"))})
    assert final[0].keys() == final[1].keys() != set()
    for name, tensors in final[0].items():
        assert all(torch.equal(tensor, final[1][name][key]) for key, tensor in tensors.items())
