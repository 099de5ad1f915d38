"""What the sides of other trainers have in common, without any of them installed."""

import json

import pytest

from tests.benchmarks.hf_side import Steps, rows, shared_settings
from tests.benchmarks.speeds import speeds
from tests.benchmarks.workload import Workload


def test_a_trainer_s_callbacks_become_a_result():
    steps = Steps(steps_per_epoch=2)
    for number in range(4):
        steps.on_step_begin(None, None, None)
        steps.on_step_end(None, None, None)
        logs = {"loss": 0.7 - number / 10, "logps/chosen": -10.0, "logps/rejected": -20.0}
        steps.on_log(None, None, None, logs=logs)
    steps.on_log(None, None, None, logs={"train_runtime": 1.0})
    result = steps.result()
    assert result["losses"] == pytest.approx([0.7, 0.6, 0.5, 0.4])
    assert result["log_probs"] == [[-10.0, -20.0]] * 4
    assert len(result["step_ends"]) == len(result["step_seconds"]) == 4
    pair = {"tokens": 5, "policy_flops": 10, "reference_flops": 1}
    facts = {"pairs": [pair] * 4, "matrix_product_flops_per_second": 1.0}
    assert speeds(result, facts, 2)["pairs_per_second"] > 0


def test_the_pairs_are_the_first_of_the_file(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": number}) + "\n\n" for number in range(5)))
    assert rows(Workload("model", str(file), 3, 1)) == [{"prompt": number} for number in range(3)]


def test_the_settings_are_the_workload_s(tmp_path):
    settings = shared_settings(
        Workload("model", "pairs.jsonl", 6, 2, epochs=3, lr=1e-4), tmp_path, checkpointing=True
    )
    assert settings["per_device_train_batch_size"] == 2
    assert (settings["num_train_epochs"], settings["learning_rate"]) == (3, 1e-4)
    assert (settings["lr_scheduler_type"], settings["weight_decay"], settings["bf16"]) == (
        "constant",
        0.0,
        True,
    )
    assert settings["gradient_checkpointing"]
