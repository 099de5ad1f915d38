"""How many threads a tiny model computes with on a CPU: one, where more gain little and may cost much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from dpotrain.engine.scoring.scorer import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Numbers in the largest weight of a layer up to which one thread computes. Each product then takes a fraction of a
#: millisecond, and where another process holds a core, all threads wait a time slice of several milliseconds for the
#: one that it interrupted. Measured on two cores with 25,000 numbers: two threads are 1.2 times as fast as one on an
#: idle machine, and 4 to 5 times slower beside two busy processes.
ONE_THREAD = 2**16
#: Where people and launchers say how many threads there are to be; then nothing is changed.
_CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_threads(policy: PreTrainedModel, device: torch.device) -> str:
    """Use one thread for a tiny model on a CPU, and return how many there are, with the reason.

    The choice depends on the model alone, and on no measurement: sums over threads round differently, and a resumed run
    must compute what the uninterrupted one does.
    """
    if device.type != "cpu":
        return ""
    if torch.get_num_threads() > 1 and not _chosen():
        model = causal_lm(policy)
        ends = [model.get_input_embeddings(), model.get_output_embeddings()]
        tables = {id(getattr(end, "weight", None)) for end in ends}
        sizes = [weight.numel() for weight in model.parameters() if id(weight) not in tables]
        if max(sizes, default=0) <= ONE_THREAD:
            torch.set_num_threads(1)
            return "1 thread (the model is too small to gain from more)"
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)}"


def share_threads(processes: int) -> None:
    """Leave each of several processes on this machine its share of the cores, where nobody chose their number."""
    if processes > 1 and not _chosen():
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _chosen() -> bool:
    return any(os.environ.get(name) for name in _CHOSEN_BY)


@contextmanager
def restoring_threads() -> Iterator[None]:
    """Put the number of threads back afterwards: another run of this process may be of a larger model."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
