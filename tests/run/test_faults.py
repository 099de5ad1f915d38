"""Faults of disks, folders and clocks: a clear error or a run that goes on, nothing half-written, nothing lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpotrain.core.reporter import SilentReporter
from dpotrain.run.checkpoint import files as checkpoints
from tests.run import faults
from tests.run.faults import FAULTS, OTHERS, Fault
from tests.run.recipes import project, run
from tests.run.test_resume_matrix import STOPPED, differences, into, saved, stops_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are made with what Linux has")

FOUR_STEPS = ["training.steps=4", "checkpoints.every=2"]


@pytest.fixture(scope="module")
def whole(forked, tmp_path_factory) -> Path:
    """A recipe, run to its end without a fault."""
    recipe = project(tmp_path_factory.mktemp("whole"))
    assert forked.run(recipe, FOUR_STEPS).code == 0
    return recipe


def half_written(run: Path) -> list[Path]:
    """What is not what its name says; a last line of metrics that was cut short is, since whoever reads drops it."""
    wrong = list(run.rglob(".*"))
    wrong += [path for path in checkpoints.complete(run / "checkpoints") if checkpoints.verify(path)]
    for path in run.glob("*.json"):
        json.loads(path.read_text())
    if (run / "final").exists():
        whole = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
        wrong += [run / "final" / name for name in whole if not (run / "final" / name).exists()]
    return wrong


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.soak] * fault.soak) for fault in FAULTS],
    ids=[fault.what.replace("`", "") for fault in FAULTS],
)
def test_fault(fault: Fault, whole, forked, tmp_path):
    """TRAPS: no trainer surveyed tests a truncated shard or a full disk."""
    places = {"parent": tmp_path / "place", "run": tmp_path / "place" / "run", "cache": tmp_path / "cache"}

    def filled(text):
        for name, place in places.items():
            text = text.replace(f"{{{name}}}", str(place)) if isinstance(text, str) else text
        return text

    acts = [[filled(part) for part in act] for act in fault.acts]
    places["parent"].mkdir()
    for path in (places["run"], places["cache"]):
        if ["read_only", str(path)] in acts:
            path.mkdir()
    settings = [*FOUR_STEPS, into(places["run"]), *map(filled, fault.settings)]
    ended = forked.run(whole, settings, resume=False, acts=acts)

    assert ended.code == int(fault.ends), ended.output
    assert "Traceback" not in ended.output
    told = ended.told if fault.ends else ended.output
    said = re.escape(filled(fault.says)).replace("…", "(?s:.*)")
    assert (re.fullmatch if fault.ends else re.search)(said, told), ended.output
    assert half_written(places["run"]) == []
    assert (saved(places["run"]) if (places["run"] / "checkpoints").exists() else []) == list(fault.left)

    for folder in map(filled, fault.mended):
        Path(folder).chmod(0o755)
    assert (again := forked.run(whole, settings)).code == 0, again.output
    assert differences(places["run"], whole.parent / "run") == []
    assert half_written(places["run"]) == []


def test_the_table_names_tests_that_exist():
    assert [name for name in OTHERS if name not in globals()] == []
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)
    assert all(fault.what in faults.fault_table() for fault in FAULTS)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(bytes(content))


#: Kinds of damage to every kind of file; a flipped bit of the manifest may be in a hash or in a name.
DAMAGES = [
    (name, damage)
    for name in ("trained.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    for damage in (truncated, flipped, Path.unlink)
]


def test_damaged_checkpoints_are_named_and_passed_over(whole, forked, tmp_path):
    settings = ["training.steps=14", "training.epochs=3", "checkpoints.keep=20", "checkpoints.every=1"]
    recipe = project(tmp_path / "recipe")
    assert forked.run(recipe, settings).code == 0
    run = tmp_path / "run"
    assert forked.run(recipe, [*settings, into(run)], acts=[stops_at(13)]).code == STOPPED
    newest_first = sorted((run / "checkpoints").iterdir(), reverse=True)
    for (name, damage), checkpoint in zip(DAMAGES, newest_first, strict=False):
        damage(checkpoint / name)
    ended = forked.run(recipe, [*settings, into(run)])
    assert ended.code == 0, ended.output
    told = re.findall(r"warning: checkpoint \S*/(step-\d+) is damaged \((.*)\) and is skipped", ended.output)
    assert [name for name, _ in told] == [path.name for path in newest_first[: len(DAMAGES)]]
    for (name, damage), (_, fault) in zip(DAMAGES, told, strict=True):
        # A bit of the manifest may be one of another file's hash.
        assert name in fault or (name == "manifest.json" and damage is not Path.unlink)
    assert f"resumed from the checkpoint of step {13 - len(DAMAGES)}" in ended.output
    assert differences(run, tmp_path / "recipe" / "run") == []


def test_where_no_checkpoint_is_sound_the_run_begins_anew(whole, forked, tmp_path):
    settings = [*FOUR_STEPS, into(tmp_path)]
    assert forked.run(whole, settings, acts=[stops_at(3)]).code == STOPPED
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        truncated(checkpoint / "state.json")
    ended = forked.run(whole, settings)
    assert ended.code == 0, ended.output
    assert ended.output.count("is damaged (state.json has") == 2
    assert "there is no checkpoint to resume from; the run begins at step 1" in ended.output
    assert differences(tmp_path, whole.parent / "run") == []


def test_a_second_process_is_refused_while_the_first_goes_on(whole, forked, tmp_path):
    refused = []

    class SecondStarts(SilentReporter):
        def step(self, record) -> None:
            if record.step in (1, 3):
                refused.append(forked.run(whole, [*FOUR_STEPS, into(tmp_path)], resume=record.step == 3))

    assert run(whole, *FOUR_STEPS, into(tmp_path), reporter=SecondStarts()).status == "finished"
    for ended in refused:
        assert ended.code == 1
        assert ended.told.startswith(f"{tmp_path} is in use: process {os.getpid()} on ")
    assert half_written(tmp_path) == []


@pytest.fixture
def mounted(tmp_path):
    """Mount a disk of so many KiB, or of another size or kind where it is; skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if place.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk may be mounted here: {done.stderr}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "sizes",
    [(4, 300, 1300), pytest.param((20, 48, 64, 700, 1900), marks=pytest.mark.soak)],
    ids=["few", "more"],
)
def test_a_disk_that_becomes_full_anywhere(sizes, whole, forked, mounted):
    """From one that has no room for the lock to one that has none for ``final/``; then room is made on it."""
    full = 0
    for size in sizes:
        settings = [*FOUR_STEPS, into(mounted(f"size={size}k") / "run")]
        ended = forked.run(whole, settings)
        run = mounted("size=20m") / "run"
        assert "Traceback" not in ended.output
        if ended.code:
            full += 1
            assert "No space left on device" in ended.told, ended.output
            assert 1 <= len(ended.told.splitlines()) <= 3
            assert half_written(run) == []
            assert (again := forked.run(whole, settings)).code == 0, again.output
        assert differences(run, whole.parent / "run") == []
        subprocess.run(["umount", "-l", str(run.parent)], check=True)
    assert full >= 3
