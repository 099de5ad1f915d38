"""How long a data set takes until its first step, and how much memory, at growing sizes.

    python -m tests.benchmarks.data_path --pairs 1000000 [--one-worker-up-to 10000] [--out result.json]

Synthetic conversations of 8 to 55 words a part go through the demo's tokenizer, the token cache, the split, the
plan and the store of reference log-probs. It needs no network and no GPU. Every step is a process of its own, so
that its peak memory is its own; that of worker processes, which does not depend on the size, is not counted.
"""

import argparse
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.plan import BatchPlan, Costs, batch_by_length
from dpotrain.data.inspection.inspection import inspect_data
from dpotrain.data.prepare import DataReader, PreparedData, prepare_data
from dpotrain.data.tokens.workers import cores
from dpotrain.engine.reference.store import ReferenceStore
from dpotrain.plugin.api import DatasetSource
from dpotrain.recipe.recipe import Recipe
from tests.benchmarks.synthetic import WORDS

#: Smaller sizes that are measured besides, to see what grows.
SIZES = (10_000, 100_000)

RECIPE = """\
[run]
output_dir = "unused"
[model]
use = "demo"
[data]
use = "demo"
format = "conversational"
eval_fraction = 0.01
[loss]
use = "dpo"
[optimizer]
lr = 1e-4
"""

#: Figure, and how it is written.
ROWS = {
    "rows/s, 1 worker": "{:,.0f}",
    "rows/s, all workers": "{:,.0f}",
    "first start, s": "{:.2f}",
    "second start, s": "{:.2f}",
    "identity of the pairs, s": "{:.3f}",
    "an epoch's steps, 1 rank, s": "{:.2f}",
    "an epoch's steps, 8 ranks, s": "{:.2f}",
    "a pass without gradients, s": "{:.2f}",
    "reference store: append, s": "{:.2f}",
    "reference store: load, s": "{:.2f}",
    "reference store: look up, s": "{:.2f}",
    "peak memory, tokenizing, MB": "{:,.0f}",
    "… without what is mapped from files": "{:,.0f}",
    "peak memory, second start, MB": "{:,.0f}",
    "… without what is mapped from files, second": "{:,.0f}",
    "inspection, s": "{:.2f}",
    "peak memory, inspection, MB": "{:,.0f}",
    "… without what is mapped from files, inspection": "{:,.0f}",
}


class SyntheticRows:
    """Conversations cut from one long text at places that the row number decides: a row costs microseconds."""

    columns: tuple[str, ...] = ("prompt", "chosen", "rejected")

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self._words = [WORDS[place] for place in draw.integers(0, len(WORDS), 100_003)]
        self._count = count
        self.fingerprint = f"synthetic {count}"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        prompt, chosen, rejected = (self._text(3 * index + part) for part in range(3))
        return {
            "prompt": [{"role": "user", "content": f"{index} {prompt}"}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }

    def _text(self, number: int) -> str:
        start = number * 7919 % (len(self._words) - 64)
        return " ".join(self._words[start : start + 8 + number * 31 % 48])


class SyntheticSource(DatasetSource):
    """Has one split."""

    name = "synthetic"

    def __init__(self, count: int) -> None:
        super().__init__(self.Options())
        self.count = count

    def splits(self) -> list[str]:
        return ["train"]

    def load(self, split: str) -> SyntheticRows:
        return SyntheticRows(self.count)


def synthetic(pairs: int, cache: Path) -> Recipe:
    recipe = cache.parent / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    loaded = load_recipe(recipe)
    return dataclasses.replace(loaded, parts={**loaded.parts, "data": (SyntheticSource(pairs),)})


def prepared(pairs: int, cache: Path, workers: int) -> tuple[PreparedData, float]:
    """Return the data, and the seconds that it took; the tokenizer was loaded before."""
    loaded = synthetic(pairs, cache)
    tokenizer = loaded.model.load_tokenizer()
    taken: dict[str, float] = {}
    with mock.patch("dpotrain.data.prepare.cores", return_value=workers), timed(taken, "seconds"):
        data = prepare_data(loaded, tokenizer, SilentReporter(), cache=cache)
    return data, taken["seconds"]


def first_start(pairs: int, cache: Path, workers: int) -> dict[str, float]:
    _, seconds = prepared(pairs, cache, workers)
    return {"seconds": seconds, "rows_per_second": pairs / seconds}


def second_start(pairs: int, cache: Path, workers: int) -> dict[str, float]:
    both, seconds = prepared(pairs, cache, workers)
    data, found = both.train, {"second start, s": seconds}
    with timed(found, "identity of the pairs, s"):
        data.keys.tobytes()
    longest = data.prompt_lengths + np.maximum(data.chosen_lengths, data.rejected_lengths)
    costs = Costs(data.lengths, longest)
    for ranks in (1, 8):
        plan = BatchPlan(
            Mixture.single(len(costs.lengths)),
            costs,
            seed=0,
            pairs_per_step=64,
            tokens_per_microbatch=4096,
            ranks=ranks,
        )
        with timed(found, f"an epoch's steps, {ranks} rank{'s' * (ranks > 1)}, s"):
            for _ in plan.steps():
                pass
    with timed(found, "a pass without gradients, s"):
        batch_by_length(np.arange(len(data)), costs, 1, 8192)
    sums = np.random.default_rng(0).normal(-100, 10, (len(data), 2)).astype(np.float32)
    store = ReferenceStore(cache / "reference", {"pairs": pairs})
    with timed(found, "reference store: append, s"):
        store.append(data.keys, sums)
    with timed(found, "reference store: load, s"):
        store.load()
    with timed(found, "reference store: look up, s"):
        looked_up = store.lookup(data.keys)
    assert np.array_equal(looked_up, sums)
    return found


def inspection(pairs: int, cache: Path, workers: int) -> dict[str, float]:
    """Inspect data whose tokens are in the cache."""
    loaded = synthetic(pairs, cache)
    reader = DataReader.of(loaded, loaded.model.load_tokenizer(), SilentReporter(), cache=cache)
    data = reader.prepare()
    found: dict[str, float] = {}
    with (
        mock.patch("dpotrain.data.inspection.inspection.cores", return_value=workers),
        timed(found, "inspection, s"),
    ):
        inspect_data(reader, data, SilentReporter())
    return found


@contextmanager
def timed(found: dict[str, float], figure: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    found[figure] = time.perf_counter() - began


class OwnMemory:
    """The most memory of this process that is no mapped file: what the system cannot take back when it runs short.

    The kernel keeps no record of it, so it is looked at every few milliseconds. Zero where there is no /proc.
    """

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists():
            lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
            self.peak_mb = max(self.peak_mb, int(lines["RssAnon"].split()[0]) / 2**10)
            if self._stop.wait(0.01):
                return


def measure(step: str, pairs: int, cache: Path, workers: int) -> dict[str, float]:
    """Take one step in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.data_path", "--step", step, "--pairs", str(pairs)]
    command += ["--cache", str(cache), "--workers", str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def take(step: str, pairs: int, cache: Path, workers: int) -> dict[str, float]:
    with OwnMemory() as own:
        found = {"first": first_start, "second": second_start, "inspect": inspection}[step](
            pairs, cache, workers
        )
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_mb"] = resident / (2**20 if sys.platform == "darwin" else 2**10)
    found["own_mb"] = own.peak_mb
    return found


def column(pairs: int, scratch: Path, one_worker_up_to: int) -> dict[str, float]:
    """Measure one size."""
    found: dict[str, float] = {}
    if pairs <= one_worker_up_to:
        alone = measure("first", pairs, scratch / f"{pairs}-alone" / "cache", 1)
        found["rows/s, 1 worker"] = alone["rows_per_second"]
    cache = scratch / str(pairs) / "cache"
    first = measure("first", pairs, cache, cores())
    second = measure("second", pairs, cache, cores())
    inspected = measure("inspect", pairs, cache, cores())
    return {
        **found,
        "rows/s, all workers": first["rows_per_second"],
        "first start, s": first["seconds"],
        **{name: second[name] for name in ROWS if name in second},
        "peak memory, tokenizing, MB": first["peak_mb"],
        "… without what is mapped from files": first["own_mb"],
        "peak memory, second start, MB": second["peak_mb"],
        "… without what is mapped from files, second": second["own_mb"],
        "inspection, s": inspected["inspection, s"],
        "peak memory, inspection, MB": inspected["peak_mb"],
        "… without what is mapped from files, inspection": inspected["own_mb"],
    }


def show(columns: Mapping[int, Mapping[str, float]], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, caption=f"{cores()} workers", caption_justify="left")
    table.add_column("pairs")
    for pairs in columns:
        table.add_column(f"{pairs:,}", justify="right")
    for name, form in ROWS.items():
        cells = [form.format(found[name]) if name in found else "-" for found in columns.values()]
        table.add_row(re.sub("(?<=files), .*", "", name), *cells)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="the largest size")
    parser.add_argument(
        "--one-worker-up-to", type=int, default=10_000, help="the largest size tokenized by one worker, too"
    )
    parser.add_argument(
        "--scratch", type=Path, help="where files go meanwhile; a million pairs take about 2 GB"
    )
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--step", choices=("first", "second", "inspect"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        options.cache.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(json.dumps(take(options.step, options.pairs, options.cache, options.workers)))
        return 0
    sizes = [*(size for size in SIZES if size < options.pairs), options.pairs]
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        columns = {size: column(size, Path(scratch), options.one_worker_up_to) for size in sizes}
    show(columns, Console(width=max(80, os.get_terminal_size().columns) if sys.stdout.isatty() else 120))
    if options.out:
        text = json.dumps({"workers": cores(), "by_pairs": columns}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
