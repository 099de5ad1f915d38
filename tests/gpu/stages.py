"""The stages in their order, with what each is for. Their modules are imported when they run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.gpu.report import Report


@dataclass(frozen=True)
class Stage:
    """One line of the check."""

    number: int
    name: str
    limit: int
    """Seconds after which it is stopped on a GPU."""
    passes_if: str
    function: str
    """``module:function`` in this package, called with a :class:`tests.gpu.report.Report`."""

    def run(self, report: Report) -> None:
        module, _, function = self.function.partition(":")
        getattr(importlib.import_module(f"tests.gpu.{module}"), function)(report)


_ALL = (
    Stage(0, "device", 40, "bf16 matrix products reach 700 TFLOP/s on an H100 or H200", "device:stage"),
    Stage(
        1, "attention", 60, "varlen kernel within 2 % of blockwise float32, both passes", "attention:stage"
    ),
    Stage(
        2,
        "head and layers",
        60,
        "log-probs are those of full logits; layers give the same bits; kernels what plain code does",
        "head:stage",
    ),
    Stage(3, "cuda tests", 100, "pytest -m cuda is green", "cuda_tests:stage"),
    Stage(4, "waiting", 60, "nothing in a warm step's gradients waits for the device", "waiting:stage"),
    Stage(5, "throughput, LoRA", 180, "1B and 8B both reach an MFU of 50 %", "throughput:lora"),
    Stage(6, "throughput, full", 60, "full 1B trains with finite losses", "throughput:full"),
    Stage(7, "throughput, QLoRA", 70, "the first loss of a 4-bit 8B is ln 2", "throughput:qlora"),
    Stage(
        8, "memory", 100, "measured / predicted peak is 0.7 to 1.3; out-of-memory recovers", "memory:stage"
    ),
    Stage(9, "demo", 90, "train, kill, resume: losses agree; final/ loads", "demo:stage"),
    Stage(
        10,
        "distributed",
        100,
        "losses of one process, NCCL and two gloo ranks are equal; a rank that fails ends both",
        "distributed:stage",
    ),
    Stage(11, "against TRL", 150, "TRL, also with Liger's kernels, does the same work", "against_trl:stage"),
)
STAGES = {stage.number: stage for stage in _ALL}
