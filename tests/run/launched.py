"""``dpotrain run --processes 2`` as a person starts it, with something done to its ranks.

Ranks are fresh interpreters that nobody but the launcher starts, so what is done to one (see :mod:`tests.run.acts`)
comes through a module that Python imports as it starts.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.run.forked import HANGS, ROOT

#: In each rank, as Python starts: ``[rank, start, name, argument, …]``; a start counts from 0, and None is any.
_SITE = """
import json, os
for rank, start, name, *arguments in json.loads(os.environ.get("TEST_ACTS", "[]")):
    here = int(os.environ.get("RANK", -1)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", -1))
    if here[0] == rank and start in (None, here[1]):
        from tests.run import acts
        getattr(acts, name)(*arguments)
"""


class Launched:
    """A launcher and its ranks, begun at once."""

    def __init__(
        self,
        recipe: Path,
        run: Path,
        *words: str,
        acts: Sequence[Sequence[Any]] = (),
        before: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Begin ``recipe`` into ``run``; ``words`` follow, ``before`` begins the command line."""
        site = run.parent / "site"
        site.mkdir(parents=True, exist_ok=True)
        (site / "sitecustomize.py").write_text(_SITE)
        path = [str(site), str(ROOT), str(ROOT / "plugins")]
        options = [] if "--processes" in words else ["--processes", "2"]
        self.run = run
        self.process = subprocess.Popen(
            [
                *before,
                *(
                    sys.executable,
                    "-m",
                    "dpotrain",
                    "run",
                    str(recipe),
                    "--set",
                    f"run.output_dir={str(run)!r}",
                ),
                *options,
                *words,
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                "TEST_ACTS": json.dumps([list(act) for act in acts]),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""

    def ranks(self) -> dict[int, int]:
        """Return the ranks that run now, and the ids of their processes."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if folder.name.isdecimal() and parent == self.process.pid:
                    variables = (folder / "environ").read_bytes().split(b"\0")
                    rank = next(each for each in variables if each.startswith(b"RANK="))
                    found[int(rank[5:])] = int(folder.name)
            except (OSError, StopIteration, ValueError):
                continue  # it has ended, or is no rank yet
        return found

    def state(self, rank: int) -> str:
        """Return the letter that the system has for what a rank does; "" where it does not run."""
        try:
            stat = Path(f"/proc/{self.ranks()[rank]}/stat").read_text()
        except (KeyError, OSError):
            return ""
        return stat.rpartition(")")[2].split()[0]

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until a condition holds, or the launcher has ended."""
        deadline = time.monotonic() + HANGS
        while not holds() and self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def until_step(self, step: int) -> None:
        """Wait until a step is in the metrics file."""
        metrics = self.run / "metrics.jsonl"
        self.until(lambda: metrics.exists() and f'"step": {step},' in metrics.read_text())

    def end(self) -> int:
        """Return the launcher's exit code, once its ranks have ended, too: until then they hold its output."""
        try:
            out, _ = self.process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, _ = self.process.communicate()
            raise AssertionError(f"it hangs:\n{out.decode(errors='replace')}") from None
        self.output = out.decode(errors="replace")
        return self.process.returncode
