"""The parts in which a step spends its time, each by itself, beside the plain way of computing the same.

    python -m tests.benchmarks.hot_parts [--only attention] [--device cpu] [--out result.json]

Attention over segments against scaled_dot_product_attention over the same segments with repeated key-value heads;
log-probs against full logits and log_softmax; packing and planning alone. A case takes well under a second.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan, Costs, batch_by_length
from dpotrain.data.batches.segments import PairLengths, Segments
from dpotrain.engine.attention import blockwise, varlen
from dpotrain.engine.attention.blockwise import Shape
from dpotrain.engine.scoring.logprobs import LogitTransform, token_log_probs
from tests.benchmarks import machine
from tests.benchmarks.clock import synchronize, versions
from tests.engine.pairs import random_pairs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Pairs of a row: many short ones, some, and a long one.
ROWS = ([PairLengths(32, 16, 16)] * 16, [PairLengths(128, 64, 64)] * 4, [PairLengths(512, 256, 256)])
#: Heads and key-value groups.
HEADS = ((9, 3), (8, 8))
HEAD_SIZE = 64
#: Scored tokens, hidden size, vocabulary.
LOG_PROBS = ((64, 256, 8192), (256, 256, 8192), (64, 512, 32768))


@dataclass(frozen=True)
class Case:
    """One computation in our way and, where there is one, in the plain way."""

    part: str
    what: str
    ours: Callable[[], Any]
    plain: Callable[[], Any] | None = None


def cases(part: str, device: str) -> Iterator[Case]:
    yield from {"attention": attention, "log-probs": log_probs, "packing": packing, "planning": planning}[
        part
    ](device)


def attention(device: str) -> Iterator[Case]:
    """Yield forward, and forward with backward, over rows, dtypes and heads."""
    for lengths in ROWS:
        segments = Segments.of(lengths).to(torch.device(device))
        masks = [_lower_right(item.queries, item.keys, device) for item in segments.items]
        count = sum(pair.total for pair in lengths)
        for name, dtype in DTYPES.items():
            for heads, groups in HEADS:
                inputs = [
                    torch.randn(count, each, HEAD_SIZE, device=device).to(dtype).requires_grad_()
                    for each in (heads, groups, groups)
                ]
                shape = Shape(HEAD_SIZE**-0.5, None, None)
                attend = varlen.choose(inputs[0], inputs[2], segments, shape) or blockwise.attend
                what = f"{len(lengths)} x {lengths[0].total} tokens, {heads}/{groups} heads, {name}"
                yield from _both_passes(
                    "attention",
                    what,
                    inputs,
                    partial(attend, segments=segments, shape=shape),
                    partial(sdpa_over_segments, segments=segments, masks=masks),
                )


def sdpa_over_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    masks: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """Attend segment by segment with torch's function; shapes as of blockwise.attend."""
    repeats = query.shape[1] // key.shape[1]
    parts = []
    for item, mask in zip(segments.items, masks, strict=True):
        keys, values = (
            torch.cat([each[start:end] for start, end in item.stretches]).repeat_interleave(repeats, 1)
            for each in (key, value)
        )
        rows = query[item.query_start : item.query_end]
        found = F.scaled_dot_product_attention(
            *(each.transpose(0, 1)[None] for each in (rows, keys, values)),
            attn_mask=mask,
            is_causal=mask is None,
        )
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


def log_probs(device: str) -> Iterator[Case]:
    """Yield a frozen and a trained head, forward, and forward with backward."""
    for rows, size, vocabulary in LOG_PROBS:
        targets = torch.randint(vocabulary, (rows,), device=device)
        for name, dtype in DTYPES.items():
            for trained in (False, True):
                head = nn.Linear(size, vocabulary, bias=False, device=device, dtype=dtype).requires_grad_(
                    trained
                )
                hidden = torch.randn(rows, size, device=device).to(dtype).requires_grad_()
                kind = "trained" if trained else "frozen"
                yield from _both_passes(
                    "log-probs",
                    f"{rows} x {size} to {vocabulary}, {kind} head, {name}",
                    [hidden, head.weight] if trained else [hidden],
                    lambda hidden, *_, head=head, targets=targets: token_log_probs(
                        hidden, head, targets, LogitTransform()
                    ),
                    lambda hidden, *_, head=head, targets=targets: full_log_probs(hidden, head, targets),
                )


def full_log_probs(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    return head(hidden).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def packing(device: str) -> Iterator[Case]:
    """Yield micro-batches of short and long pairs, with their way to the device."""
    for count, sizes in ((64, (40, 20, 25)), (8, (512, 256, 256))):
        data = random_pairs([sizes] * count)
        yield Case(
            "packing",
            f"{count} pairs of {sum(sizes)} tokens",
            lambda data=data, count=count: pack(data, range(count)).to(torch.device(device)),
        )


def planning(_: str) -> Iterator[Case]:
    """Yield an epoch cut into steps, and into a pass without gradients."""
    draw = np.random.default_rng(0)
    for pairs in (1000, 10_000):
        lengths = draw.integers(50, 500, pairs)
        costs = Costs(lengths, lengths)
        plan = BatchPlan(
            Mixture.single(len(costs.lengths)), costs, seed=0, pairs_per_step=64, tokens_per_microbatch=2048
        )
        yield Case("planning", f"{pairs} pairs in steps of 64", lambda plan=plan: list(plan.steps()))
        yield Case(
            "planning",
            f"{pairs} pairs in one pass",
            lambda pairs=pairs, costs=costs: batch_by_length(
                np.arange(pairs, dtype=np.int64), costs, 1, 2048
            ),
        )


def _both_passes(
    part: str,
    what: str,
    inputs: Sequence[torch.Tensor],
    ours: Callable[..., torch.Tensor],
    plain: Callable[..., torch.Tensor],
) -> Iterator[Case]:
    # As in a pass without gradients, where nothing that comes in wants any.
    constant = [tensor.detach() for tensor in inputs]

    def forward(function: Callable[..., torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return function(*constant)

    def backward(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(function(*inputs).float().sum(), inputs)

    yield Case(part, f"{what}, forward", partial(forward, ours), partial(forward, plain))
    yield Case(part, f"{what}, both passes", partial(backward, ours), partial(backward, plain))


def _lower_right(queries: int, keys: int, device: str) -> torch.Tensor | None:
    """Return the mask whose last query sees every key; None where torch's own causal mask is that."""
    if queries == keys:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def milliseconds(function: Callable[[], Any], patience: float) -> float:
    """Return the median duration of a call after one that warms up, for about ``patience`` seconds."""
    function()
    taken = []
    until = time.perf_counter() + patience
    while not taken or time.perf_counter() < until:
        synchronize()
        began = time.perf_counter()
        function()
        synchronize()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def measure(parts: Sequence[str], device: str, patience: float = 0.1) -> list[dict[str, Any]]:
    """Return every case of the parts with its milliseconds."""
    torch.manual_seed(0)
    found = []
    for part in parts:
        for case in cases(part, device):
            row = {"part": case.part, "case": case.what, "ours_ms": milliseconds(case.ours, patience)}
            if case.plain is not None:
                row["plain_ms"] = milliseconds(case.plain, patience)
            found.append(row)
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("part", "case"):
        shown.add_column(name, overflow="fold")
    for name in ("ours, ms", "plain, ms", "plain / ours"):
        shown.add_column(name, justify="right")
    for row in rows:
        plain = row.get("plain_ms")
        compared = ["", ""] if plain is None else [f"{plain:.3f}", f"{plain / row['ours_ms']:.2f}"]
        shown.add_row(row["part"], row["case"], f"{row['ours_ms']:.3f}", *compared)
    return shown


def main(given: Sequence[str] | None = None) -> int:
    parts = ("attention", "log-probs", "packing", "planning")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=parts, help="only this part; may be given again")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args(given)
    rows = measure(options.only or parts, options.device)
    Console().print(table(rows))
    if options.out:
        everything = {
            "command": sys.argv,
            "machine": machine.describe(),
            "versions": versions(),
            "cases": rows,
        }
        options.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
