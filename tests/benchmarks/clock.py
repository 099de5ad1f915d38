"""When steps ended and what they took in memory, the same way on every side.

It runs in TRL's interpreter too, so it imports nothing of dpotrain.
"""

import importlib.metadata
import resource
import sys
import time

import torch

PACKAGES = (
    "dpotrain", "trl", "llamafactory", "ms-swift", "torch", "transformers", "peft", "accelerate", "bitsandbytes",
    "datasets",
)  # fmt: skip


class StepClock:
    """Notes the wall clock at the end of each step.

    On CUDA it waits for the device at the ends of the first step and of each epoch, between which speeds are
    measured, and nowhere else: a trainer that runs ahead of its device may.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.ends: list[float] = []

    def step_ended(self) -> None:
        step = len(self.ends) + 1
        if step == 1 or step % self.steps_per_epoch == 0:
            synchronize()
        self.ends.append(time.perf_counter())


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb() -> dict[str, float]:
    """Return the most that was held, in MB of 2**20 bytes: by the process, and on the CUDA device."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = {"resident": resident / (2**20 if sys.platform == "darwin" else 2**10)}
    if torch.cuda.is_available():
        peaks["cuda_allocated"] = torch.cuda.max_memory_allocated() / 2**20
        peaks["cuda_reserved"] = torch.cuda.max_memory_reserved() / 2**20
    return peaks


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
