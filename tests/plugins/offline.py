"""What a logger does on the network in a process of its own, which nothing tells that it is being tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

#: Every connection and every look-up of a name is written down, and refused.
CODE = """\
import json, socket, sys, time
from pathlib import Path
tried = []
def refuse(what):
    def call(*args, **kwargs):
        tried.append(f"{what} {args[-1] if what == 'connect' else args[0]}")
        raise OSError("no network here")
    return call
socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect")
socket.getaddrinfo = refuse("look-up")
from dpotrain_plugins.loggers.MODULE import LOGGER as L
from tests.plugins.logging_run import ended, made_up_run, train
folder = Path(sys.argv[1])
logger = L(L.Options())
logger.start(made_up_run(folder))
logger.log(train(1))
logger.finish(ended(folder))
time.sleep(1)  # for threads that send in the background
print("tried", json.dumps(tried))
"""

#: By these, trackers know a test.
TEST_MARKS = ("CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "DO_NOT_TRACK")


def network_of(module: str, logger: str, folder: Path, **environment: str) -> list[str]:
    """Return what a whole run with the logger's default options tried to reach."""
    dropped = (*TEST_MARKS, "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith("MLFLOW")
    }
    root = str(Path(__file__).parent.parent.parent)
    code = CODE.replace("MODULE", module).replace("LOGGER", logger)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**kept, "HOME": str(folder), "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (tried,) = [line for line in done.stdout.splitlines() if line.startswith("tried ")]
    return list(json.loads(tried.removeprefix("tried ")))
