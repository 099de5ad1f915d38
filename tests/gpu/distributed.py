"""Stage 10: a run alone, as one rank over NCCL, also sharded, and as two ranks on one device; a rank that fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dpotrain.engine.parallel.replicated import Replicated
from dpotrain.run import session
from tests.gpu.child import Child, finish
from tests.gpu.report import Report
from tests.gpu.runs import LORA, Watch, Work, run
from tests.run import acts

#: Largest difference of losses: ranks cut a step into other micro-batches, and bfloat16 rounds.
CLOSE = 5e-3
LIMIT = 60
#: Seconds in which all ranks of a run end when one fails.
ENDS = 60
#: At rates that move the loss within a few steps.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": LORA | {"optimizer.lr": 3e-3, "reference.when": "live"},
    "all weights": {"model.dtype": "float32", "optimizer.lr": 3e-4},
    # gloo gathers no shards of a device, so that this is for one rank.
    "all weights, sharded": {"model.dtype": "float32", "optimizer.lr": 3e-4, "parallel.shard": "all"},
}


def stage(report: Report) -> None:
    work = Work("small", 200, 56, pairs_per_step=8, steps=4)
    if report.dry:
        work = Work("tiny", 20, 10, pairs_per_step=4, steps=2)
    # The same pairs in every step, so that the loss falls.
    again = {"data.pairs": work.pairs_per_step, "training.epochs": work.steps}
    # NCCL needs a device for each rank; two ranks on one device exchange over gloo.
    launches: Mapping[str, Mapping[str, Any]] = {
        f"one rank over {'gloo' if report.dry else 'nccl'}": {"ranks": 1},
        "two ranks over gloo": {"ranks": 2, "backend": "gloo"},
        "two ranks over gloo, one out of memory": {
            "ranks": 2,
            "backend": "gloo",
            "act": ("fails_in", "step", "memory"),
        },
    }
    for way, own in WAYS.items():
        overrides = {**own, **again}
        alone = losses(report, work, f"{way}, alone", overrides)
        report.expect(abs(alone[-1] - alone[0]) > 2 * CLOSE, f"{way}: the loss does not change")
        for name, launch in launches.items():
            if "parallel.shard" in own and launch["ranks"] > 1:
                continue
            try:
                got = losses(report, work, f"{way}, {name}", overrides, **launch)
            except RuntimeError as error:
                report.fail(str(error))
                continue
            apart = max(abs(one - two) for one, two in zip(alone, got, strict=True))
            report.figure(f"{way}, {name}: losses apart", apart)
            report.expect(apart < CLOSE, f"{way}, {name}: losses differ by {apart:.2g}")
    fail(report, work, {**WAYS["LoRA"], **again})


def fail(report: Report, work: Work, overrides: Mapping[str, Any]) -> None:
    """Let one of two ranks fail in its second step: both end, with its message."""
    folder = report.folder / "failing"
    children = launch(report, work, folder, overrides, 2, "gloo", ("fails_in", "step", "raise", 1))
    codes = {name: child.wait(ENDS) for name, child in children.items()}
    report.figure("a rank that fails: exit codes", " ".join(map(str, codes.values())))
    report.expect(list(codes.values()) == [1, 1], f"a rank that fails: exit codes are {codes}")
    summary = folder / "run" / "summary.json"
    said = json.loads(summary.read_text(encoding="utf-8"))["error"] if summary.exists() else ""
    report.expect("broken in the step" in said, f"a rank that fails: the summary says {said!r}")


def losses(
    report: Report,
    work: Work,
    name: str,
    overrides: Mapping[str, Any],
    ranks: int = 0,
    backend: str | None = None,
    act: Sequence[Any] = (),
) -> list[float]:
    """Run in so many processes (0: without a launcher) and return rank 0's losses; the last rank does ``act``."""
    folder = report.folder / name.replace(" ", "-").replace(",", "")
    finish(launch(report, work, folder, overrides, ranks, backend, act), LIMIT)
    return [float(loss) for loss in json.loads((folder / "losses.json").read_text(encoding="utf-8"))]


def launch(
    report: Report,
    work: Work,
    folder: Path,
    overrides: Mapping[str, Any],
    ranks: int,
    backend: str | None,
    act: Sequence[Any],
) -> dict[str, Child]:
    """Start the ranks of a run, by name; rank 0 writes its losses into ``folder``."""
    recipe, found = work.write(folder), folder / "losses.json"
    launched = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    launched["MASTER_PORT"] = _free_port()
    children = {}
    for rank in range(max(1, ranks)):
        # All ranks use the one device there is.
        environment = launched | {"RANK": str(rank), "LOCAL_RANK": "0"} if ranks else {}
        log = report.out / "logs" / f"{folder.name}-{rank}.txt"
        where = found if rank == 0 else None
        own = act if rank == ranks - 1 else ()
        children[f"{folder.name}, rank {rank}"] = Child(
            one_rank, recipe, overrides, ranks, backend, own, where, log=log, environment=environment
        )
    return children


def one_rank(
    recipe: Path,
    overrides: Mapping[str, Any],
    ranks: int,
    backend: str | None,
    act: Sequence[Any],
    losses: Path | None,
) -> None:
    """Run one rank, over ``backend`` if there is one, and write the losses to a file if one is given."""
    watch = Watch()
    if act:
        name, *arguments = act
        getattr(acts, name)(*arguments)
    with ExitStack() as stack:
        if backend is not None:
            torch.distributed.init_process_group(backend)
            stack.callback(torch.distributed.destroy_process_group)
        if ranks == 1:  # which would otherwise be a run without a launcher
            stack.enter_context(mock.patch.object(session, "start", Replicated))
        run(recipe, overrides, watch)
    if losses is not None:
        losses.write_text(json.dumps(watch.losses), encoding="utf-8")


def _free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])
