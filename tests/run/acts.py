"""What may be done to a run from inside its process: stopped, killed, deprived of room, given wrong numbers.

Each act is called in a child of :mod:`tests.run.forked`, before the run begins and after everything is imported, and
stays for the child's life. Wherever the system can do it the fault is real: a limit on the size of files makes writes
short and then fail, permissions bind because root's power over them is given up.
"""

import ctypes
import errno
import hashlib
import importlib
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _after_step(step: int, act: Callable[[], object]) -> None:
    from dpotrain.engine.training.trainer import Trainer

    ordinary = Trainer.train_step

    def train_step(self: Trainer, plan: Any) -> Any:
        record = ordinary(self, plan)
        if record.step == step:
            act()
        return record

    Trainer.train_step = train_step


def signal_after(step: int, name: str) -> None:
    """Send this process a signal when a step is done."""
    _after_step(step, lambda: os.kill(os.getpid(), signal.Signals[name]))


def runs_first(recipe: str, runs: list[list[str]]) -> None:
    """Train as a recipe says, once with each list of overrides, before the process does what it was started for."""
    from tests.run.recipes import run

    for overrides in runs:
        run(Path(recipe), *overrides)


def interrupt_while_busy(step: int, times: int) -> None:
    """Send this process so many SIGINT after a step, while its main thread computes and runs no Python."""

    def interrupt() -> None:
        for _ in range(times):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    def compute() -> None:
        threading.Thread(target=interrupt, daemon=True).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000 if times == 1 else 10**9)

    _after_step(step, compute)


def hurry_after(seconds: float) -> None:
    """Let a run that was asked to stop wait for its loggers only so long."""
    from dpotrain.run import session

    session.HURRY_WHEN_STOPPED = seconds


def interrupt_after_saying(text: str) -> None:
    """Send this process SIGINT, as Ctrl-C twice, when it has said ``text`` on standard output."""

    def interrupt() -> None:
        for _ in range(2):
            time.sleep(0.2)  # two that are pending at once are one
            os.kill(os.getpid(), signal.SIGINT)

    ordinary = sys.stdout.write

    def write(said: str) -> int:
        if text in said:
            threading.Thread(target=interrupt, daemon=True).start()
        return ordinary(said)

    sys.stdout.write = write


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_within(seconds: float) -> None:
    """Die when so much time has gone by."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def die_at(point: str) -> None:
    """Die at one of the ``SAVE_POINTS``."""
    SAVE_POINTS[point]()


def _before_write() -> None:
    from dpotrain.run.checkpoint import files

    files.save = lambda *_: die()


def _between_files() -> None:
    import safetensors.torch

    ordinary = safetensors.torch.save_file

    def save_one_file(*args: Any, **kwargs: Any) -> None:
        ordinary(*args, **kwargs)
        die()

    safetensors.torch.save_file = save_one_file


def _before_manifest() -> None:
    from dpotrain.run.checkpoint import files

    files._described = lambda file: die()


def _around_rename(kill: Callable[[Callable[[], Path]], None]) -> None:
    from dpotrain.run.checkpoint import files

    ordinary = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if files.NAME.fullmatch(Path(target).name):
            kill(lambda: ordinary(self, target))
        return ordinary(self, target)

    Path.replace = replace


def _before_rename() -> None:
    _around_rename(lambda rename: die())


def _after_rename() -> None:
    _around_rename(lambda rename: (rename(), die()))


def _during_pruning() -> None:
    from dpotrain.run.checkpoint import files

    ordinary = shutil.rmtree

    def remove_half(path: Path, *args: Any, **kwargs: Any) -> None:
        if Path(path).name.endswith(".old"):
            next(Path(path).iterdir()).unlink()
            die()
        ordinary(path, *args, **kwargs)

    files.shutil.rmtree = remove_half


SAVE_POINTS: dict[str, Callable[[], None]] = {
    "before write": _before_write,
    "between files": _between_files,
    "before manifest": _before_manifest,
    "before rename": _before_rename,
    "after rename": _after_rename,
    "during pruning": _during_pruning,
}


def die_in_reference(batches: int) -> None:
    """Die, as by SIGKILL, when so many micro-batches of the reference have been stored."""
    from dpotrain.engine.reference.store import ReferenceStore

    ordinary, stored = ReferenceStore.append, 0

    def append(self: ReferenceStore, keys: Any, sums: Any) -> None:
        nonlocal stored
        ordinary(self, keys, sums)
        stored += 1
        if stored == batches:
            die()

    ReferenceStore.append = append


def spoil(step: int) -> None:
    """Make the losses of a step, of this rank alone, numbers that are none."""
    from dpotrain.engine.training import trainer

    ordinary_step, ordinary_losses = trainer.Trainer.train_step, trainer.pair_losses
    now = 0

    def train_step(self: trainer.Trainer, plan: Any) -> Any:
        nonlocal now
        now = plan.step
        return ordinary_step(self, plan)

    def pair_losses(*scored: Any) -> Any:
        losses = ordinary_losses(*scored)
        return losses * math.nan if now == step and losses.requires_grad else losses

    trainer.Trainer.train_step, trainer.pair_losses = train_step, pair_losses


def _wait_for_checkpoint() -> None:
    """Return when no checkpoint is being written beside the steps, so that how fast that goes decides nothing."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint" and thread is not threading.current_thread():
            thread.join()


def no_room(pattern: str, room: int, only: str = "") -> None:
    """Let no file grow beyond ``room`` bytes from the moment one is opened, or a folder made, that matches ``pattern``.

    A file that is there keeps what it has and may grow by ``room``. With ``only``, the limit is lifted again when
    something is opened for writing whose path does not match that: one disk of two is full.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(path: str) -> None:
        _wait_for_checkpoint()
        there = Path(path).stat().st_size if Path(path).is_file() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (there + room, hard))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        path = _written_to(event, arguments)
        # A thread of its own writes the status, at any time.
        if path is None or "/.status.json." in path:
            return
        if re.search(pattern, path):
            limit(path)
        elif only and not re.search(only, path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    sys.addaudithook(watch)


def _written_to(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the path that an audit event is about to write to."""
    if event == "os.mkdir":
        return os.fsdecode(arguments[0])
    if event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return os.fsdecode(arguments[0])
    return None


def disk_error(pattern: str) -> None:
    """Let ``fsync`` of every file that matches ``pattern`` fail, as a broken disk does."""
    ordinary = os.fsync

    def fsync(handle: int) -> None:
        if re.search(pattern, str(Path(f"/proc/self/fd/{handle}").readlink())):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        ordinary(handle)

    os.fsync = fsync


def read_only(folder: str, after: int | None = None) -> None:
    """Make a folder one that cannot be written in, for root as for anyone: at once, or after a step."""

    def act() -> None:
        _wait_for_checkpoint()
        Path(folder).chmod(0o555)

    as_anyone()
    if after is None:
        act()
    else:
        _after_step(after, act)


def as_anyone() -> None:
    """Give up root's power to pass over permissions, for this thread and those that it starts."""
    if os.geteuid():
        return

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    header, nothing = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)):
        raise OSError(ctypes.get_errno(), "capset")


#: Where :func:`fails_in` and :func:`hangs_in` act: functions that a rank calls once or more in the middle of its work.
PLACES = {
    "step": ("dpotrain.engine.training.trainer", "Trainer._losses"),
    "clipping": ("dpotrain.engine.parallel.one_process", "OneProcess.clip"),
    "evaluation": ("dpotrain.evaluation.evaluation_set", "EvaluationSet._by_source"),
    "saving": ("dpotrain.run.checkpoint.saving", "CheckpointSaver._reference"),
    "result": ("dpotrain.run.session", "save_result"),
    "loading": ("dpotrain.run.building.build", "read_data"),
}


def _acts_in(place: str, act: Callable[[], object]) -> None:
    """Act before every call of the function of a place."""
    module, name = PLACES[place]
    owner = importlib.import_module(module)
    *outer, name = name.split(".")
    for each in outer:
        owner = getattr(owner, each)
    ordinary = getattr(owner, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        act()
        return ordinary(*args, **kwargs)

    setattr(owner, name, function)


def fails_in(place: str, how: str, before: int = 0) -> None:
    """Let this process raise, run out of memory, exit or send itself SIGTERM in a place, after so many calls of it."""
    calls = 0

    def act() -> None:
        nonlocal calls
        calls += 1
        if calls != before + 1:
            return
        import torch

        match how:
            case "raise":
                raise ValueError(f"broken in the {place}")
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
            case "exit":
                os._exit(9)
            case "signal":
                os.kill(os.getpid(), signal.SIGTERM)

    _acts_in(place, act)


def hangs_in(place: str) -> None:
    """Let this process's main thread compute in a place and run no Python, as if it waited for a device."""
    _acts_in(place, lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9))


def watches_fast(grace: float = 0.5, silent: int = 40) -> None:
    """Let a rank notice sooner that another is gone, and leave its main thread less time to end."""
    from dpotrain.engine.parallel import watch

    watch.BEAT, watch.GRACE, watch.SILENT = 0.1, grace, silent


def clock_goes_backwards() -> None:
    """Let the time of day fall by an hour whenever it is asked for."""
    now = time.time()

    def earlier() -> float:
        nonlocal now
        now -= 3600
        return now

    time.time = earlier
    time.time_ns = lambda: int(earlier() * 1e9)


def count_exchange(out: str) -> None:
    """Write what this process sends in each step, as :class:`tests.run.counting.Counting` has it, into a file."""
    from dpotrain.engine.training.trainer import Trainer
    from tests.run.counting import Counting

    ordinary, steps = Trainer.train_step, []

    def train_step(self: Trainer, plan: Any) -> Any:
        with Counting(self.parallel._control) as counting:
            record = ordinary(self, plan)
        steps.append(counting.sent)
        Path(out).write_text(json.dumps(steps), encoding="utf-8")
        return record

    Trainer.train_step = train_step
