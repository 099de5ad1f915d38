"""Stage 10: the same run alone, as one rank over NCCL, and as two ranks on one device over gloo."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
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

#: Largest difference of losses: ranks cut a step into other micro-batches, and bfloat16 rounds.
CLOSE = 5e-3
LIMIT = 60
#: At rates that move the loss within a few steps.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": LORA | {"optimizer.lr": 3e-3, "reference.when": "live"},
    "all weights": {"model.dtype": "float32", "optimizer.lr": 3e-4},
}


def stage(report: Report) -> None:
    work = Work("small", 200, 56, pairs_per_step=8, steps=4)
    if report.dry:
        work = Work("tiny", 20, 10, pairs_per_step=4, steps=2)
    # The same pairs in every step, so that the loss falls.
    again = {"data.pairs": work.pairs_per_step, "training.epochs": work.steps}
    # NCCL needs a device for each rank; two ranks on one device exchange over gloo.
    launches = {"one rank": (1, "gloo" if report.dry else "nccl"), "two ranks": (2, "gloo")}
    for way, own in WAYS.items():
        overrides = {**own, **again}
        alone = losses(report, work, f"{way}, alone", overrides)
        report.expect(abs(alone[-1] - alone[0]) > 2 * CLOSE, f"{way}: the loss does not change")
        for name, (ranks, backend) in launches.items():
            try:
                got = losses(report, work, f"{way}, {name} over {backend}", overrides, ranks, backend)
            except RuntimeError as error:
                report.fail(str(error))
                continue
            apart = max(abs(one - two) for one, two in zip(alone, got, strict=True))
            report.figure(f"{way}, {name} over {backend}: losses apart", apart)
            report.expect(apart < CLOSE, f"{way}, {name} over {backend}: losses differ by {apart:.2g}")


def losses(
    report: Report,
    work: Work,
    name: str,
    overrides: Mapping[str, Any],
    ranks: int = 0,
    backend: str | None = None,
) -> list[float]:
    """Run in so many processes (0: without a launcher) and return rank 0's losses."""
    folder = report.folder / name.replace(" ", "-").replace(",", "")
    recipe, found = work.write(folder), folder / "losses.json"
    launched = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    launched["MASTER_PORT"] = _free_port()
    children = {}
    for rank in range(max(1, ranks)):
        # All ranks use the one device there is.
        environment = launched | {"RANK": str(rank), "LOCAL_RANK": "0"} if ranks else {}
        log = report.out / "logs" / f"{folder.name}-{rank}.txt"
        where = found if rank == 0 else None
        children[f"{name}, rank {rank}"] = Child(
            one_rank, recipe, overrides, backend, where, log=log, environment=environment
        )
    finish(children, LIMIT)
    return [float(loss) for loss in json.loads(found.read_text(encoding="utf-8"))]


def one_rank(recipe: Path, overrides: Mapping[str, Any], backend: str | None, losses: Path | None) -> None:
    """Run one rank, over ``backend`` if there is one, and write the losses to a file if one is given."""
    watch = Watch()
    with ExitStack() as stack:
        if backend is not None:
            torch.distributed.init_process_group(backend)
            stack.callback(torch.distributed.destroy_process_group)
            # A world of one process would otherwise be a run without a launcher.
            stack.enter_context(mock.patch.object(session, "start", Replicated))
        run(recipe, overrides, watch)
    if losses is not None:
        losses.write_text(json.dumps(watch.losses), encoding="utf-8")


def _free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])
