"""Functions in processes of their own: forked after the imports, ended by a time limit."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED."""


def preload(dry: bool) -> None:
    """Import what every stage needs, so that forked processes have it; on a GPU, nothing that may start CUDA."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import torch._inductor.compile_fx  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    import dpotrain.run.session  # noqa: F401

    if dry:
        import peft  # noqa: F401  # and with it bitsandbytes, which asks the device what it can do


class Child:
    """A process that calls a function; what it prints goes into a file."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: Any,
        log: Path,
        environment: Mapping[str, str] | None = None,
        leads_group: bool = False,
    ) -> None:
        """Start it.

        Args:
            function: called with ``arguments``; importable if this process has initialised CUDA.
            arguments: its arguments; picklable in the same case.
            log: the file for its output.
            environment: variables to set before the call.
            leads_group: whether :meth:`kill` and :meth:`wait` end the process's own children as well.
        """
        self.log, self._leads_group = log, leads_group
        # A forked process cannot use CUDA if its parent has initialised it.
        context: Any = multiprocessing.get_context("spawn" if _cuda_started() else "fork")
        self._process = context.Process(
            target=_call, args=(function, arguments, log, dict(environment or {}), leads_group)
        )
        sys.stdout.flush()
        self._process.start()

    @property
    def running(self) -> bool:
        alive: bool = self._process.is_alive()
        return alive

    def wait(self, seconds: float) -> int | None:
        """Return the exit code (minus a signal's number), or None if it was killed after ``seconds``."""
        self._process.join(seconds)
        code: int | None = self._process.exitcode
        self.kill()
        return code

    def kill(self) -> None:
        """Kill the process if it is still running (SIGKILL)."""
        if self._leads_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self.running:
            self._process.kill()
        self._process.join()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def finish(children: Mapping[str, Child], seconds: float) -> None:
    """Wait for all children, by name.

    Raises:
        RuntimeError: one failed or took longer; the message ends with the end of its output.
    """
    codes = {name: child.wait(seconds) for name, child in children.items()}
    for name, code in codes.items():
        if code != 0:
            ended = f"took over {seconds:.0f} s" if code is None else f"ended with code {code}"
            raise RuntimeError(f"{name} {ended}: …{children[name].output()[-1500:]}")


def command(*arguments: str) -> None:
    """Run the ``dpotrain`` command with these arguments, in this process."""
    from dpotrain.cli import main

    main(list(arguments), prog_name="dpotrain")


def _call(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    log: Path,
    environment: dict[str, str],
    leads_group: bool,
) -> None:
    if leads_group:
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (open(end, "w", buffering=1, closefd=False) for end in (1, 2))  # noqa: SIM115
    # multiprocessing ends the process with the code of a SystemExit, and with 1 after any other exception.
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _cuda_started() -> bool:
    """Whether this process has initialised CUDA's driver, by torch or otherwise."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != _NOT_INITIALIZED
