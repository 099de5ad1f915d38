"""What sharing the prompt between the two answers of a pair is worth: dpotrain against itself without it.

    python -m tests.benchmarks.prefix_sharing --model DIR --prompts 64,256,1024 --answers 64,256

For every length of prompt and answers two or three runs: as dpotrain trains; with every prompt twice in the row, once
for each answer; and, with ``--padded``, an ordinary forward over padded sequences. All take the same steps, which their
losses show. Without overhead the ratio of the speeds is that of the FLOPs (see :mod:`.flops`).
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.agreement import largest_difference, loss_bar
from tests.benchmarks.cells import base_of, numbers, parser, write
from tests.benchmarks.sides import prepare, run_dpotrain
from tests.benchmarks.speeds import speeds, steps_of
from tests.benchmarks.workload import Workload

SHARED, TWICE, PADDED = "shared", "twice", "padded"


def measure(
    base: Workload,
    prompts: Sequence[int],
    answers: Sequence[int],
    steps: int,
    tokens_per_step: int,
    rounds: int = 1,
    *,
    padded: bool = False,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return a cell for every length of prompt and answers, with the speeds of each way in every round."""
    ways = (SHARED, TWICE, PADDED) if padded else (SHARED, TWICE)
    cells = []
    for prompt in prompts:
        for answer in answers:
            size = max(1, round(tokens_per_step / (prompt + 2 * answer)))
            with tempfile.TemporaryDirectory(prefix="dpotrain-benchmark-") as scratch:
                workload = replace(
                    base,
                    data=str(Path(scratch) / "pairs.jsonl"),
                    pairs=steps * size,
                    pairs_per_step=size,
                    # Room for what the words and a chat template make of it.
                    max_length=2 * (prompt + answer) + 64,
                )
                facts = prepare(workload, (prompt, answer, answer, 0.0), exact=True)
                results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way in ways:
                        results[way].append(_run(way, workload, facts, overrides))
            cells.append(_cell(workload, facts, results))
    return cells


def _run(way: str, workload: Workload, facts: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    # One micro-batch a step in every way: the budget counts each prompt once.
    tokens = 2 * workload.pairs_per_step * facts["longest_pair"]
    given = [f"training.tokens_per_microbatch={tokens}", *overrides]
    if way == PADDED:
        given.append('training.packing="off"')
    return run_dpotrain(workload, given, prompts_twice=way == TWICE)


def _cell(
    workload: Workload, facts: dict[str, Any], results: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    figures = {
        way: [speeds(result, facts, workload.pairs_per_step) for result in runs]
        for way, runs in results.items()
    }

    def median(way: str, figure: str) -> float:
        return statistics.median(each[figure] for each in figures[way])

    live = results[SHARED][0]["live_reference"]
    losses = results[SHARED][0]["losses"]
    apart = [largest_difference(losses, runs[0]["losses"]) for runs in results.values()]
    return {
        "pairs_per_step": workload.pairs_per_step,
        "tokens": facts["mean_tokens"],
        "machine": facts["machine"],
        "rounds": figures,
        "pairs_per_second": {way: median(way, "pairs_per_second") for way in results},
        "peak_resident_mb": {way: median(way, "peak_resident_mb") for way in results},
        "by_flops": by_flops(facts["pairs"], workload.pairs_per_step, live=live),
        "largest_loss_difference": None if None in apart else max(each for each in apart if each is not None),
    }


def by_flops(pairs: Sequence[dict[str, int]], pairs_per_step: int, *, live: bool) -> float:
    """Return how many times faster sharing makes the steps that are timed, if FLOPs alone decide."""
    taken = steps_of(pairs, pairs_per_step)[1:]
    work = ("policy_flops", "reference_flops") if live else ("policy_flops",)

    def total(suffix: str) -> int:
        return sum(step[part + suffix] for step in taken for part in work)

    return total("_twice") / total("")


def table(cells: Sequence[dict[str, Any]]) -> Table:
    shown = Table(
        title="pairs per second with the prompt shared, and without",
        box=box.SIMPLE_HEAD,
        caption="by FLOPs: what the ratio to 'twice' is if nothing but matrix products takes time",
        caption_justify="left",
    )
    ways = list(cells[0]["pairs_per_second"])
    for name in ("prompt", "answers", "pairs a step", *ways, "ratio", "by FLOPs", "memory"):
        shown.add_column(name, justify="right", no_wrap=name == "answers")
    for cell in cells:
        speed, memory = cell["pairs_per_second"], cell["peak_resident_mb"]
        tokens = cell["tokens"]
        shown.add_row(
            f"{tokens['prompt']:.0f}",
            f"{tokens['chosen']:.0f} + {tokens['rejected']:.0f}",
            str(cell["pairs_per_step"]),
            *(f"{speed[way]:.3g}" for way in ways),
            f"{speed[SHARED] / speed[TWICE]:.2f}",
            f"{cell['by_flops']:.2f}",
            f"{memory[SHARED] / memory[TWICE]:.2f}",
        )
    return shown


def main(given: Sequence[str] | None = None) -> int:
    """Measure, show and write; return 1 where the ways did not take the same steps."""
    options_of = parser(__doc__, steps=4)
    add = options_of.add_argument
    add("--prompts", type=numbers, default=[64, 256, 1024], help="tokens, a chat template's included")
    add("--answers", type=numbers, default=[64, 256], help="tokens of each answer")
    add("--tokens-per-step", type=int, default=1536, help="about so many, the prompt once")
    add("--rounds", type=int, default=1)
    add("--padded", action="store_true", help="also measure padded sequences")
    options = options_of.parse_args(given)
    if options.rounds < 1:
        options_of.error("--rounds: at least 1")
    base = base_of(options, options_of)
    cells = measure(
        base,
        options.prompts,
        options.answers,
        options.steps,
        options.tokens_per_step,
        options.rounds,
        padded=options.padded,
        overrides=options.overrides,
    )
    console = Console()
    console.print(table(cells))
    apart = [cell["largest_loss_difference"] for cell in cells]
    bars = [
        loss_bar(options.precision, sum(cell["tokens"].values()), cell["pairs_per_step"]) for cell in cells
    ]
    same = all(each is not None and each <= bar for each, bar in zip(apart, bars, strict=True))
    console.print(
        f"losses, step by step: at most {max(apart):.1e} apart"
        if same
        else f"not the same work: losses are {apart} apart (none: other steps)",
        highlight=False,
    )
    write(options, cells)
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
