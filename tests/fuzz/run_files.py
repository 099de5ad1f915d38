"""Files of a run folder with anything in them: what they say is used or skipped, and nothing breaks on them."""

import copy
import hashlib
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from rich.console import Console

from dpotrain.core import summary
from dpotrain.core.errors import RecipeError, RunError
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.report.comparison import compare
from dpotrain.report.inventory import take_inventory
from dpotrain.report.listing import list_run
from dpotrain.report.past_run import read_run
from dpotrain.report.run_json import run_as_json
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.resuming import as_written, find_resumable
from dpotrain.run.checkpoint.snapshot import FORMAT, Checkpoint, Snapshot
from dpotrain.run.folder.metrics_file import MetricsFile
from dpotrain.run.folder.run_folder import RunFolder
from dpotrain.run.resume_config import resume_config
from dpotrain.ui.checkpoints_table import checkpoints_table
from dpotrain.ui.comparison import print_comparison
from dpotrain.ui.page.page import page
from dpotrain.ui.run_view import print_run
from dpotrain.ui.runs_table import print_runs
from dpotrain.ui.summary import summary_text
from tests.fuzz.junk import ANYTHING, DEEP, damage, mutate
from tests.fuzz.recipes import check_message
from tests.report.past_runs import past_run

FILES = (
    "trained.safetensors", "optimizer.safetensors", "components.safetensors", "state.json",
    "manifest.json",
)  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "seed": 1,
    "loss": {"use": "dpo", "beta": 0.1},
    "training": {"epochs": 1, "steps": None},
}
#: All that is asked of a recipe before a run is resumed.
RECIPE: Any = SimpleNamespace(document=DOCUMENT, components=(), parts={}, plugins=PluginManager.of())
SUMMARY: dict[str, Any] = {
    "status": "finished", "steps": 3, "train": {"loss": 0.5}, "seconds": 2.5,
    "first_evaluation": {"loss": 0.7, "rewards/margins": 0.0}, "last_evaluation": {"loss": 0.6, "rewards/margins": 0.1},
    "best_evaluation": {"step": 3, "loss": 0.6}, "pairs_per_second": 3.0, "tokens_per_second": 90.0, "error": "",
    "peak_memory_mb": 300.0, "how_to_load": "…", "final": "run/final",
    "plan": {"peak_memory_mb_predicted": 9.0, "peak_memory_mb_measured": 99.0, "tokens_per_second_measured": 2.0},
    "samples": {"table": {"columns": ["a"], "rows": [["b"]]}, "n": 1},
}  # fmt: skip
STATE: dict[str, Any] = {
    "resume_config": resume_config(DOCUMENT), "data": "d", "total_steps": 9, "random": [{"python": [3, [1, 2], None]}],
    "microbatches": {"wanted": "auto", "tokens": 64, "checkpointed": 0, "checkpointing": "auto"},
    "window": {"sums": [0.0] * 9, "seconds": 0.0, "grad_norms": 0.0, "steps": 0},
    "progress": {"step": 1, "pairs": 4.0, "tokens": 99.0, "training_seconds": 1.0, "wall_seconds": 1.0,
                 "last_train": {}, "first_evaluation": {}, "last_evaluation": {},
                 "best_evaluation": {"step": 1, "loss": 0.6}, "evaluated_as": [[1, 0.6]],
        "sampled": 1,},
    "best_by": {"metric": "loss", "lowest": True},
    "versions": {"components": {'loss "dpo"': ["dpotrain", "0.1"]}, "packages": {"torch": "2"}},
}  # fmt: skip
JUNK = ANYTHING | DEEP


def valid(folder: Path) -> Path:
    """Write a checkpoint as a run writes it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    checkpoint = Checkpoint(1, model.state_dict(), optimizer.state_dict(), STATE)
    return checkpoints.save(folder, Snapshot.of(checkpoint))


def seal(path: Path) -> None:
    """Make the manifest say that every file is as it should be."""
    manifest = {
        name: {"bytes": len(content), "blake2b": hashlib.blake2b(content, digest_size=32).hexdigest()}
        for name in FILES[:-1]
        for content in [(path / name).read_bytes()]
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


class _OfCheckpoints:
    """Has a run folder with one checkpoint in it, which can be made valid again."""

    def __init__(self, folder: Path) -> None:
        self.run = folder
        self.path = valid(folder / "checkpoints")
        self.whole = {name: (self.path / name).read_bytes() for name in FILES}

    def restore(self) -> None:
        for name, content in self.whole.items():
            (self.path / name).write_bytes(content)

    def listed(self) -> bool:
        """Whether the checkpoint is listed as valid; whatever is in it, it is listed."""
        entries = take_inventory(self.run)
        assert [entry.path for entry in entries] == [self.path]
        Console(file=io.StringIO(), width=200).print(checkpoints_table(self.run, entries))
        json.dumps([entry.as_json() for entry in entries])
        found, damaged = checkpoints.newest(self.path.parent)
        assert (found == self.path) != (self.path in damaged)
        assert bool(entries[0].fault) == (self.path in damaged)
        assert entries[0].resumes == (found == self.path)
        return found is not None


MANIFESTS = ANYTHING | st.dictionaries(
    st.sampled_from(FILES[:-1]), ANYTHING | st.fixed_dictionaries({"bytes": ANYTHING, "blake2b": ANYTHING})
)


class OfManifests(_OfCheckpoints):
    """Takes what ``manifest.json`` holds: no other than its own makes a checkpoint valid."""

    def __call__(self, case: Any) -> str:
        self.restore()
        (self.path / "manifest.json").write_text(json.dumps(case))
        assert not self.listed()
        return "damaged"


DAMAGES = st.tuples(st.sampled_from(FILES), st.data())
INSERTS = st.binary(min_size=1, max_size=9)


class OfDamages(_OfCheckpoints):
    """Takes a file's name and draws what is done to its bytes: any change is found, but of a manifest's white space."""

    def __call__(self, case: tuple[str, st.DataObject]) -> str:
        name, data = case
        self.restore()
        whole = self.whole[name]
        changed = damage(data.draw, whole, INSERTS)
        (self.path / name).write_bytes(changed)
        if not self.listed():
            return "damaged"
        assert changed == whole or (name == "manifest.json" and json.loads(changed) == json.loads(whole))
        return "accepted"


@st.composite
def states(draw: st.DrawFn) -> Any:
    state = {
        "format": FORMAT,
        "step": 1,
        "optimizer": {"items": [["state", {"items": []}]]},
        "components": {"items": []},
        **STATE,
    }
    for _ in range(draw(st.integers(1, 2))):
        state = mutate(draw, state, JUNK)
    return state


STATES = states()


class OfStates(_OfCheckpoints):
    """Takes what ``state.json`` holds, with a manifest that vouches for it."""

    def __call__(self, case: Any) -> str:
        self.restore()
        (self.path / "state.json").write_text(json.dumps(case))
        seal(self.path)
        assert self.listed()
        try:
            find_resumable(self.path.parent, RECIPE, OneProcess())
            with as_written(self.path):
                checkpoints.load(self.path)
        except RunError as error:
            check_message(str(error), (str(self.path), "then, "))
            return "RunError"
        return "accepted"


METRICS = st.tuples(
    st.lists(
        st.binary(max_size=40)
        | st.builds(lambda value: json.dumps(value).encode(), JUNK)
        | st.builds(
            lambda step, loss: json.dumps({"kind": "train", "step": step, "loss": loss}).encode(),
            st.integers(0, 20),
            st.floats(-9, 9),
        ),
        max_size=8,
    ),
    st.integers(-1, 20),
)


class OfMetrics:
    """Takes lines of ``metrics.jsonl`` and a step: the records up to the step are kept, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def __call__(self, case: tuple[list[bytes], int]) -> str:
        lines, step = case
        self.path.write_bytes(b"".join(line + b"\n" for line in lines) + b'{"kind": "train", "st')
        MetricsFile(self.path).rewind(step)
        kept = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        assert all(record["step"] <= step for record in kept)
        valid = [json.loads(line) for line in lines if line.startswith(b'{"kind": "train", "step"')]
        assert [record for record in kept if record.get("kind") == "train"] == [
            record for record in valid if record["step"] <= step
        ]
        return "accepted" if kept else "nothing kept"


@st.composite
def summaries(draw: st.DrawFn) -> tuple[Any, bytes]:
    value: Any = copy.deepcopy(SUMMARY)
    for _ in range(draw(st.integers(0, 3))):
        value = mutate(draw, value, JUNK)
    recipe = b'seed = 1\n[loss]\nuse = "dpo"\nbeta = 0.1\n[training]\nepochs = 1\n'
    for _ in range(draw(st.integers(0, 1))):
        recipe = damage(draw, recipe, st.binary(max_size=5) | st.just(b".".join([b"a"] * 3000) + b"=1\n"))
    return value, recipe


SUMMARIES = summaries()


class OfSummaries:
    """Takes what ``summary.json`` and ``recipe.toml`` hold: a finished run is shown, anything else is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)

    def __call__(self, case: tuple[Any, bytes]) -> str:
        value, recipe = case
        self.folder.summary.write_text(json.dumps(value))
        self.folder.recipe.write_bytes(recipe)
        try:
            finished = self.folder.finished(RECIPE)
        except RunError as error:
            check_message(str(error), ("then, ",))
            return "RunError"
        if finished is None:
            return "no finished run"
        assert finished["status"] == "finished"
        summary_text(summary.from_json(finished, self.folder.path))
        return "accepted"


_NAMES = st.sampled_from(
    [
        *("recipe.toml", "status.json", "summary.json", "metrics.jsonl", "samples.jsonl", "data_report.json"),
        *("environment.json", "evaluations/pairs.jsonl", "evaluations/step-00000200.jsonl"),
    ]
)


@st.composite
def run_folders(draw: st.DrawFn) -> list[tuple[str, bytes | None]]:
    """Return changes to files of a run folder: other bytes, None where the file is removed."""
    changes: list[tuple[str, bytes | None]] = []
    for name in draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True)):
        whole = PAST_RUN[name]
        kind = draw(st.sampled_from(["removed", "damaged", "mutated", "replaced"]))
        if kind == "removed":
            changes.append((name, None))
        elif kind == "replaced":
            changes.append((name, json.dumps(draw(JUNK)).encode()))
        elif kind == "damaged" or name.endswith(".toml"):
            changes.append((name, damage(draw, whole, st.binary(max_size=9))))
        elif name.endswith(".jsonl"):
            lines = whole.splitlines()
            at = draw(st.integers(0, len(lines) - 1))
            lines[at] = json.dumps(mutate(draw, json.loads(lines[at]), JUNK)).encode()
            changes.append((name, b"\n".join(lines) + b"\n"))
        else:
            changes.append((name, json.dumps(mutate(draw, json.loads(whole), JUNK)).encode()))
    return changes


def _past_run() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = past_run(Path(folder) / "run", steps=200, every=100, held_out=12)
        files = {
            path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()
        }
    status = {
        "state": "running",
        "pid": 1,
        "host": "x",
        "step": 200,
        "total_steps": 400,
        "updated": 1e9,
        "began": 9e8,
    }
    return files | {"status.json": json.dumps(status).encode()}


PAST_RUN = _past_run()
RUN_FOLDERS = run_folders()


class OfRunFolders:
    """Takes changes to a run folder: it is shown, listed, compared and reported all the same, or is none."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        (self.run / "evaluations").mkdir(parents=True)
        (self.run / "checkpoints").mkdir()

    def __call__(self, case: list[tuple[str, bytes | None]]) -> str:
        for name, content in {**PAST_RUN, **dict(case)}.items():
            if content is None:
                (self.run / name).unlink(missing_ok=True)
            else:
                (self.run / name).write_bytes(content)
        try:
            run = read_run(self.run)
        except RecipeError as error:
            assert {"recipe.toml", "status.json"} <= dict(case).keys()
            check_message(str(error), (str(self.run),))
            return "no run folder"
        console = Console(file=io.StringIO(), width=100, force_terminal=True)
        print_run(run, console)
        print_runs(self.run, [list_run(self.run)], console)
        found = compare([run, run])
        print_comparison(found, console)
        for plain in (run_as_json(run), list_run(self.run).as_json(), found.as_json()):
            json.dumps(plain, default=str)
        page([run])
        page([run, run])
        return "named" if run.problems else "accepted"
