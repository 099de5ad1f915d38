"""What ``dpotrain plan`` shows, for a person."""

import io
from typing import Any

from rich.console import Console

from dpotrain.run.planning.plan import Plan
from dpotrain.run.planning.remedies import Remedy
from dpotrain.ui.plan import print_plan


def shown(width: int = 100, **changes: Any) -> str:
    values: dict[str, Any] = {
        "device": "NVIDIA [H200]",
        "memory": 24 * 2**30,
        "parts": {"weights": 4 * 2**30, "optimizer": 300 * 2**20},
        "fits": True,
        "packed": True,
        "tokens_per_microbatch": 4096,
        "limit": "memory",
        "longest_pair": 1800,
        "checkpointed_layers": 0,
        "layers": 32,
        "parameters": 6_738_415_616,
        "trained_parameters": 39_976_960,
        "pairs": 61_135,
        "steps": 956,
        "pairs_per_step": 64,
        "microbatches_per_step": 12.34,
        "tokens_per_second": 5210.0,
        "seconds": 7520.0,
        "remedies": (Remedy("training.activation_checkpointing = true", 3 * 2**30),),
        "finished_run": None,
    }
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        print_plan(Plan(**(values | changes)), console)
    return capture.get()


def test_memory_by_part_and_the_facts():
    lines = [" ".join(line.split()) for line in shown().splitlines()]
    for line in (
        "weights 4.0 GB",
        "optimizer 300 MB",
        "at the peak 4.3 GB",
        "available on NVIDIA [H200] 24.0 GB",
        "training 39,976,960 of 6,738,415,616 parameters",
        "micro-batch at most 4,096 tokens (what fits into memory), packed; the longest pair has 1,800",
        "steps 956 of 64 pairs, of 61,135 pairs; about 12.3 micro-batches a step",
        "time about 2h05m, at 5,210 tokens/s",
    ):
        assert line in lines
    assert "checkpointed" not in shown()
    assert "does not fit" not in shown()


def test_layers_that_are_checkpointed_and_pairs_by_themselves():
    text = shown(checkpointed_layers=7, tokens_per_microbatch=1)
    assert "7 of 32 layers" in text
    assert "every pair by itself" in text


def test_what_does_not_fit_says_what_would_help():
    assert "  training.activation_checkpointing = true: 3.0 GB less" in shown(fits=False)


def test_another_device_has_no_time():
    assert "tokens/s" not in shown(tokens_per_second=None, seconds=None)


def test_a_finished_run_shows_how_far_off_the_prediction_was():
    run = {"peak_memory_mb_predicted": 1024.0, "peak_memory_mb_measured": 2048.0}
    assert "took 2.0 GB, predicted 1.0 GB" in shown(finished_run=run)
