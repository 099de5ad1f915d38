"""What ``dpotrain plan`` shows, for a person."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from dpotrain.engine.memory.exchange import Exchange, Links
from dpotrain.run.planning.changes import Changes, SmallestGpus
from dpotrain.run.planning.devices import Devices
from dpotrain.run.planning.duration import Duration
from dpotrain.run.planning.layouts import Way
from dpotrain.run.planning.plan import Plan
from dpotrain.run.planning.remedies import Remedy
from dpotrain.ui.plan import print_plan

DURATION = Duration(
    loading=None,
    reference=300.0,
    evaluations=5,
    evaluation=4.0,
    first_evaluation=8.0,
    evaluates_first=True,
    samples=0,
    sample=0.0,
    training=7200.0,
    tokens_per_second=5210.0,
)


def shown(width: int = 100, command: Sequence[str] = ("RECIPE",), **changes: Any) -> str:
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
        "tile_tokens": 0,
        "host_memory": 0,
        "gathered": 0,
        "layers": 32,
        "parameters": 6_738_415_616,
        "trained_parameters": 39_976_960,
        "pairs": 61_135,
        "steps": 956,
        "pairs_per_step": 64,
        "microbatches_per_step": 12.34,
        "first_passes": 0.0,
        "tokens_per_second": 5210.0,
        "seconds": 7520.0,
        "duration": DURATION,
        "operations": 3e12,
        "speed_from": "estimated",
        "measured_runs": 0,
        "disk": {"5 checkpoints": 2 * 2**30, "final": 150 * 2**20},
        "disk_free": 100 * 2**30,
        "remedies": (Remedy("training.activation_checkpointing = true", 3 * 2**30),),
        "changes": None,
        "gpus": None,
        "finished_run": None,
        "devices": None,
    }
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        print_plan(Plan(**(values | changes)), console, command)
    return capture.get()


def test_memory_by_part_and_the_facts():
    lines = [" ".join(line.split()) for line in shown().splitlines()]
    for line in (
        "weights 4.0 GB",
        "optimizer 300 MB",
        "peak memory 4.3 GB",
        "available on NVIDIA [H200] 24.0 GB",
        "training 39,976,960 of 6,738,415,616 parameters",
        "micro-batch at most 4,096 tokens (what fits into memory), packed; the longest pair has 1,800",
        "steps 956 of 64 pairs, of 61,135 pairs; about 12.3 micro-batches a step",
        "time about 2h05m: training 2h00m at 5,210 tokens/s, reference 5m00s, 5 evaluations of 4.0s",
        "first step after about 5m08s and the time to load, which no run here has measured",
        "speed and memory are estimated; a run here measures them for the next plan",
        "disk 2.1 GB of 100.0 GB that are free: 5 checkpoints 2.0 GB, final 150 MB",
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


def test_host_memory_is_that_of_each_process_and_more_in_the_main_one():
    alone, beside = shown(gathered=2**40), shown(gathered=2**40, host_memory=2**30)
    text = "in the main process, where each checkpoint is gathered"
    assert f"  host memory  1024.0 GB {text}" in alone
    assert "  host memory  1.0 GB in each process" in beside
    assert text in beside
    assert text not in shown()


def test_another_device_has_no_time():
    assert "tokens/s" not in shown(tokens_per_second=None, seconds=None, duration=None)


def test_a_finished_run_shows_how_far_off_the_prediction_was():
    run = {"peak_memory_mb_predicted": 1024.0, "peak_memory_mb_measured": 2048.0}
    assert "peak memory 2.0 GB, predicted 1.0 GB" in shown(finished_run=run)


def test_what_runs_have_measured_is_said():
    measured = replace(DURATION, loading=12.0)
    text = " ".join(shown(duration=measured, measured_runs=3).split())
    assert "5 evaluations of 4.0s, loading 12s" in text
    assert "first step after about 5m20s speed and memory as 3 runs of this model here measured them" in text


def test_the_fewest_changes_are_a_command_to_copy():
    changes = Changes(("training.activation_checkpointing=true", 'x.y="a b"'), same_results=True)
    text = shown(fits=False, changes=changes)
    assert "It does not fit. With these changes it would; results stay the same:" in text
    assert (
        "  dpotrain run RECIPE --set training.activation_checkpointing=true --set 'x.y=\"a b\"'"
        in text.splitlines()
    )
    assert "they change what is computed" in shown(fits=False, changes=Changes(("a=1",), same_results=False))


def test_gpus_that_would_do():
    changes = Changes(("optimizer.use=adamw-8bit",), same_results=False)
    text = shown(gpus=SmallestGpus(48, 24, changes))
    assert "48 GB as it is, 24 GB with --set optimizer.use=adamw-8bit (they change what is computed)" in text
    assert "none of the common sizes as it is" in shown(gpus=SmallestGpus(None, None, None))


def test_a_disk_that_is_too_full():
    assert "The disk is too full" in shown(disk_free=2**30)
    assert "The disk is too full" not in shown()


def devices(**changes: Any) -> Devices:
    ways = (
        Way(
            layout="sharded over all 8",
            overrides=("parallel.shard=all",),
            chosen=True,
            fits=True,
            needed=40 * 2**30,
            on_host=0,
            longest_pair=52_000,
            exchange=Exchange(3 * 2**30, 2**30, 0.0, 2**20, 0.0),
            tokens_per_second=9876.0,
            measured_runs=0,
        ),
        Way(
            layout="replicated",
            overrides=("parallel.shard=none",),
            chosen=False,
            fits=False,
            needed=120 * 2**30,
            on_host=0,
            longest_pair=0,
            exchange=Exchange(0.0, 0.0, 0.0, 2**30, 0.0),
            tokens_per_second=None,
            measured_runs=0,
        ),
    )
    values: dict[str, Any] = {
        "count": 8,
        "machine": 8,
        "layout": "sharded over all 8",
        "reason": "weights are sharded over all devices: replicated they take 120.0 GB of the 80.0 GB of each device",
        "cannot_shard": "",
        "ways": ways,
        "fewest": None,
        "links": Links(300e9, 35e9, 8),
    }
    return Devices(**(values | changes))


def test_layouts_of_several_devices_are_a_table():
    lines = [" ".join(line.split()) for line in shown(140, devices=devices()).splitlines()]
    for line in (
        "memory of each device",
        "over 8 devices memory of each longest pair sends a step tokens/s with",
        "sharded over all 8 40.0 GB 52,000 4.0 GB 9,876 as it is",
        "replicated 120.0 GB 0 1.0 GB - --set parallel.shard=none",
        "devices 8: weights are sharded over all devices: replicated they take 120.0 GB of the 80.0 GB of each device",
        "links 300 GB/s of each device (--link sets another number)",
        "steps 956 of 64 pairs, of 61,135 pairs; about 12.3 micro-batches a step on each device",
    ):
        assert line in lines
    several = shown(devices=devices(count=32, cannot_shard='the optimizer "muon" needs whole weights'))
    assert "300 GB/s of each device among 8 of a machine, 35 GB/s between machines" in several
    assert 'weights stay whole: the optimizer "muon" needs whole weights' in several


def test_a_narrow_terminal_loses_nothing_of_the_layouts():
    text = shown(40, devices=devices())
    for part in ("52,000", "9,876", "--set parallel.shard=none", "120.0 GB"):
        assert part in text


def test_what_does_not_fit_names_the_layouts_that_would_or_how_many_devices():
    text = shown(fits=False, devices=devices())
    assert "In these layouts it would; results stay the same:" in text
    assert "  dpotrain run RECIPE --processes 8 --set parallel.shard=all" in text.splitlines()
    none = tuple(replace(way, fits=False) for way in devices().ways)
    text = shown(fits=False, devices=devices(ways=none, fewest=32))
    assert 'It would fit on 32 such devices, with parallel.shard = "all".' in text
    assert "training.activation_checkpointing = true: 3.0 GB less" in text


def test_a_command_starts_every_device_and_sets_each_key_once():
    given = ("my recipe.toml", "--set", "parallel.shard=none", "--set", "data.max_length=900")
    text = shown(fits=False, devices=devices(count=16), command=given)
    assert (
        "  dpotrain run 'my recipe.toml' --processes 8 --machines 2 --rendezvous HOST:PORT "
        "--set data.max_length=900 --set parallel.shard=all"
    ) in text.splitlines()
    none = tuple(replace(way, fits=False) for way in devices().ways)
    changes = Changes(("data.max_length=450",), same_results=False)
    text = shown(fits=False, devices=devices(ways=none), changes=changes, command=given)
    assert (
        "  dpotrain run 'my recipe.toml' --processes 8 --set parallel.shard=none --set data.max_length=450"
        in text.splitlines()
    )


def test_where_the_speed_is_from():
    assert "computed from 125 TFLOP/s of each device, which an A100 reaches" in shown(
        operations=125e12, speed_from="assumed"
    )
    assert "(--tflops)" in shown(speed_from="given")
    assert "which runs of this model measured" in shown(speed_from="measured", devices=devices())
