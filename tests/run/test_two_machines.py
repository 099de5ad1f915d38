"""Two machines, each a network namespace of this one: one is taken away, and the run goes on."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.run.launched import Launched
from tests.run.recipes import project, run
from tests.run.test_launched_runs import assert_same

pytestmark = pytest.mark.soak

ADDRESSES = ("10.77.0.1", "10.77.0.2")
ENDPOINT = f"{ADDRESSES[0]}:29400"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Machines:
    """Two namespaces and the cable between them."""

    def __init__(self) -> None:
        self.names = [f"dpotrain-{os.getpid()}-{number}" for number in range(2)]
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(
            "-n",
            self.names[0],
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            self.names[1],
        )
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def cut(self) -> None:
        """Take the second machine off the network: nothing that it sends, not even that it ends, arrives."""
        ip("-n", self.names[1], "link", "set", "cable", "down")

    def join(self) -> None:
        ip("-n", self.names[1], "link", "set", "cable", "up")


@pytest.fixture
def machines() -> Iterator[Machines]:
    try:
        made = Machines()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', '') or error}")
    yield made
    made.close()


@pytest.fixture
def begin(machines, tmp_path) -> Callable[..., Launched]:
    """Start the run on one of the machines; both have its folder."""
    begun: list[Launched] = []

    def on(number: int, recipe: Path, count: str, *words: str) -> Launched:
        launched = Launched(
            recipe,
            tmp_path / "run",
            *("--processes", "1", "--machines", count, "--rendezvous", ENDPOINT, "--resume", *words),
            before=["ip", "netns", "exec", machines.names[number]],
            GLOO_SOCKET_IFNAME="cable",
        )
        begun.append(launched)
        return launched

    yield on
    for launched in begun:
        if launched.process.poll() is None:
            os.killpg(launched.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("layout", ["parallel.shard=all", "parallel.context=2"])
def test_two_machines_train_together(layout, machines, begin, tmp_path):
    recipe = project(tmp_path / "project")
    run(recipe)
    first, second = (begin(number, recipe, "2", "--set", layout) for number in (0, 1))
    assert first.end() == 0, first.output
    assert second.end() == 0, second.output
    assert "machine 1 of 2" in first.output + second.output
    assert (first.output + second.output).count("step 1/") == 1
    assert "frame #" not in first.output + second.output
    assert_same(tmp_path / "run", recipe.parent / "run")


@pytest.mark.parametrize("count", ["1:2", "2"])
def test_a_machine_that_is_taken_away_ends_no_run(count, machines, begin, tmp_path):
    """With 1:2 the other goes on alone; with 2 it waits for one that takes its place."""
    recipe = project(tmp_path / "project")
    recipe.write_text(
        recipe.read_text().replace("epochs = 2", "epochs = 60") + "\n[checkpoints]\nevery = 4\n"
    )
    run(recipe)
    first, second = begin(0, recipe, count), begin(1, recipe, count)
    first.until_step(20)
    machines.cut()
    if count == "2":
        first.until(lambda: not first.ranks())  # its ranks were ended, as the other machine does not answer
        os.killpg(second.process.pid, signal.SIGKILL)
        second.end()
        machines.join()
        second = begin(1, recipe, count)
    assert first.end() == 0, first.output
    assert "does not answer any more" in first.output
    assert "the run resumes from its last checkpoint" in first.output
    assert_same(tmp_path / "run", recipe.parent / "run")
    if count == "2":
        assert second.end() == 0, second.output


def test_the_machine_where_all_meet_is_lost(machines, begin, tmp_path):
    """The other one says so and ends, and both go on from the last checkpoint when they are started again."""
    recipe = project(tmp_path / "project")
    recipe.write_text(
        recipe.read_text().replace("epochs = 2", "epochs = 20") + "\n[checkpoints]\nevery = 4\n"
    )
    run(recipe)
    first, second = (begin(number, recipe, "2", "--set", "parallel.shard=all") for number in (0, 1))
    first.until_step(8)
    machines.cut()
    os.killpg(first.process.pid, signal.SIGKILL)
    first.end()
    assert second.end() == 76, second.output
    assert f"{ENDPOINT}, where the machines of the run meet, is lost" in second.output
    machines.join()
    first, second = (begin(number, recipe, "2", "--set", "parallel.shard=all") for number in (0, 1))
    assert (first.end(), second.end()) == (0, 0), first.output + second.output
    assert_same(tmp_path / "run", recipe.parent / "run")
