"""The process ends when the work is done, whatever a library has left behind."""

import os
import subprocess
import sys

import pytest

from tests.plugin.fakes import install

#: What a client of a service may do: wait in an exit handler, and in a thread that is no daemon.
WAITS = {
    "exit handler": "import atexit, threading\natexit.register(threading.Event().wait)",
    "thread": "import threading\nthreading.Thread(target=threading.Event().wait).start()",
}


def leave(site, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"from dpotrain.cli import leaving, main\nleaving.EXIT_SECONDS = 0.3\n{program}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("waits", WAITS.values(), ids=list(WAITS))
@pytest.mark.parametrize(("arguments", "code"), [(["plugins"], 0), (["check", "no-recipe.toml"], 2)])
def test_what_waits_at_exit_is_cut_off_with_the_exit_code_of_the_command(site, waits, arguments, code):
    install(site, "dpotrain-waiting", "1.0", waiting=waits)
    program = "main()" if arguments == ["plugins"] else "import dpotrain_waiting_waiting\nmain()"
    done = leave(site, program, *arguments)
    assert done.returncode == code
    assert "a library did not let the process end for 0.3 s, so it was ended" in done.stderr
    assert "no-recipe.toml" in done.stderr or "dpotrain-waiting" in done.stdout


def test_a_program_that_calls_it_and_goes_on_is_left_alone(site):
    program = "import time\ntry:\n    main()\nexcept SystemExit:\n    time.sleep(1)\n    print('went on')"
    done = leave(site, program, "plugins")
    assert done.returncode == 0
    assert done.stdout.endswith("went on\n")
    assert done.stderr == ""
