"""``dpotrain`` in forked processes: begun in a moment, alone or as the ranks of one run, with something done to it.

A server (``python -m tests.run.forked``) pays for the imports once and forks a child a rank, with the environment that
a launcher gives. A child does what the command does, down to its exit code and the lines on the terminal; it reads the
entry points anew. What is done to it (see :mod:`tests.run.acts`) ends with it.
"""

import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
#: Seconds after which a run of a few steps hangs.
HANGS = 300


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    code: int
    """Its exit code; minus the number of the signal that ended it."""
    out: str
    err: str

    @property
    def output(self) -> str:
        return self.out + self.err

    @property
    def told(self) -> str:
        """The lines of its error, or of why it stopped."""
        for word in ("error: ", "stopped: "):
            if word in self.output:
                return self.output.rsplit(word, 1)[1].strip()
        return ""


class Forked:
    """The server's other end. It runs in ``python``, which may be another environment's."""

    def __init__(self, python: str = sys.executable, environment: Mapping[str, str] = os.environ) -> None:
        self._server = subprocess.Popen(
            [python, "-m", "tests.run.forked"],
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()

    def ranks(
        self,
        recipe: Path,
        overrides: Sequence[str] = (),
        *,
        ranks: int = 2,
        resume: bool = True,
        acts: Sequence[Sequence[Any]] = (),
        by_rank: Mapping[int, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        path: Sequence[Path] = (),
        folder: Path = ROOT,
    ) -> list[Ended]:
        """Run a recipe in so many processes, in ``folder``, and return how each ended.

        ``acts`` are ``[rank, name, argument, …]``; ``by_rank`` has overrides of one rank alone; what is installed in
        the folders of ``path`` is found, too.
        """

        def arguments(rank: int) -> list[str]:
            sets = [*overrides, *(by_rank or {}).get(rank, ())]
            words = [word for override in sets for word in ("--set", override)]
            return ["run", str(recipe), *words, *(["--resume"] if resume else [])]

        return self._ask(
            arguments=[arguments(rank) for rank in range(ranks)],
            folder=str(folder),
            acts=acts,
            environment=environment,
            path=[str(each) for each in path],
        )

    def run(self, recipe: Path, overrides: Sequence[str] = (), **more: Any) -> Ended:
        """Run a recipe in one process; an act has no rank."""
        acts = [[0, *act] for act in more.pop("acts", ())]
        (ended,) = self.ranks(recipe, overrides, ranks=1, acts=acts, **more)
        return ended

    def dpotrain(
        self,
        *words: str,
        folder: Path = ROOT,
        acts: Sequence[Sequence[Any]] = (),
        environment: Mapping[str, str] | None = None,
        path: Sequence[Path] = (),
        program: str = "dpotrain",
    ) -> Ended:
        """Give a command in ``folder``, in one process that also finds what is installed in the folders of ``path``."""
        (ended,) = self._ask(
            arguments=[words],
            folder=str(folder),
            acts=[[0, *act] for act in acts],
            environment=environment,
            path=[str(each) for each in path],
            program=program,
        )
        return ended

    def pytest(self, *words: str, folder: Path, path: Sequence[Path] = ()) -> Ended:
        """Run tests in ``folder``, as ``python -m pytest`` does where no other plugin of pytest is installed."""
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        options = ("-p", "no:cacheprovider")
        return self.dpotrain(
            *options, *words, folder=folder, path=[folder, *path], program="pytest", environment=alone
        )

    def _ask(self, **asked: Any) -> list[Ended]:
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        return [Ended(**ended) for ended in json.loads(self._server.stdout.readline())]


def serve() -> None:
    """Fork what each line of standard input asks for, and answer with a line."""
    # What a start would import is imported here, once for all of them.
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import dpotrain.cli.run
    import dpotrain.run.session  # noqa: F401
    from dpotrain.plugin.runtime.manager import PluginManager

    PluginManager.from_entry_points()  # imports the plugins
    torch.set_num_threads(1)
    # A child that collects garbage need not look at what is there now.
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        port = _free_port()
        children = [
            _fork(asked, rank, len(asked["arguments"]), port) for rank in range(len(asked["arguments"]))
        ]
        print(json.dumps(_wait(children)), flush=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@dataclass
class Child:
    """A process and what it has said so far, by the end of a pipe: standard output, then errors."""

    pid: int
    said: dict[int, bytes]


def _fork(asked: dict[str, Any], rank: int, ranks: int, port: int) -> Child:
    # Pipes, since a limit on the size of files does not hold for them.
    out, err = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.close(out[1])
        os.close(err[1])
        return Child(child, {out[0]: b"", err[0]: b""})
    try:
        os.setpgid(0, 0)
        os.dup2(out[1], 1)
        os.dup2(err[1], 2)
        for end in (*out, *err):
            os.close(end)
        code = _child(asked, rank, ranks, port)
    except BaseException as error:  # the server must not go on in here
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 99
    sys.stdout.flush()
    os._exit(code)


def _child(asked: dict[str, Any], rank: int, ranks: int, port: int) -> int:
    os.environ.update(asked["environment"] or {})
    if ranks > 1:
        here = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
        }
        os.environ.update(
            {name: str(value) for name, value in {**here, "RANK": rank, "LOCAL_RANK": rank}.items()}
        )
    from tests.run import acts

    for whose, name, *arguments in asked["acts"]:
        if whose == rank:
            getattr(acts, name)(*arguments)
    os.chdir(asked.get("folder", "."))
    sys.path[:0] = asked.get("path", [])
    arguments = asked["arguments"][rank]
    if asked.get("program") == "pytest":
        import pytest

        return int(pytest.main(arguments))
    from dpotrain.cli import main

    sys.argv = ["dpotrain", *arguments]
    try:
        main(arguments, prog_name="dpotrain")
    except SystemExit as ended:
        threading._shutdown()  # as Python does when it exits: a thread that is no daemon would keep it
        return int(ended.code or 0)
    return 0


def _wait(children: Sequence[Child]) -> list[dict[str, Any]]:
    """Read what the children say until all have ended; one that hangs is killed."""
    deadline = time.monotonic() + HANGS
    with selectors.DefaultSelector() as open_pipes:
        for child in children:
            for read in child.said:
                open_pipes.register(read, selectors.EVENT_READ, child)
        while open_pipes.get_map():
            ready = open_pipes.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                for child in children:
                    os.killpg(child.pid, signal.SIGKILL)
                deadline = time.monotonic() + HANGS
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                key.data.said[key.fd] += data
                if not data:
                    open_pipes.unregister(key.fd)
                    os.close(key.fd)

    def ended(child: Child) -> dict[str, Any]:
        out, err = (said.decode(errors="replace") for said in child.said.values())
        return {"code": os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]), "out": out, "err": err}

    return [ended(child) for child in children]


if __name__ == "__main__":
    serve()
