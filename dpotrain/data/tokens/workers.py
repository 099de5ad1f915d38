"""Work on rows (formatting, tokenizing, inspecting) in several processes, with the results in order.

Workers are new interpreters, not forks, because threads run here; ``multiprocessing`` would import the user's script.
Rows are read in this process: they may be open files. A batch that fails in a worker is done again here, so that the
error is the same as without workers.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeAlias, TypeVar

from dpotrain.core.reporter import Reporter
from dpotrain.data.tokens.tokenize_rows import NumberedRow
from dpotrain.plugin.api import Rows

#: Rows worked on at a time: few enough for steady progress, enough to be worth a message to a worker.
ROWS_PER_BATCH = 128

#: Fewer rows are nearly done before workers are ready: importing transformers takes each about two seconds, in which
#: one process tokenizes five thousand rows, and its tokenizer uses the other cores for a third of the work.
MIN_ROWS_FOR_WORKERS = 20_000

_QUEUED = 2  # batches for each worker, so that none waits while this process reads rows

T = TypeVar("T")
#: What is done with a batch of rows. It is pickled for the workers.
RowWork: TypeAlias = Callable[[Sequence[NumberedRow]], T]
#: A worker's result to come; None in it, or in its place, where this process does the batch again.
Pending: TypeAlias = "Future[T | None] | None"


def cores() -> int:
    """Return how many cores this process can use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def map_rows(
    work: RowWork[T],
    rows: Rows,
    numbers: Sequence[int],
    reporter: Reporter,
    processes: int,
    doing: str = "tokenizing",
) -> Generator[T, None, None]:
    """Yield what ``work`` makes of each batch of the rows of these numbers; ``doing`` names it in a note.

    The results are the same, in the same order, for any number of ``processes``. Close the generator, so that an error
    or Ctrl-C leaves no worker behind.
    """
    batches = (numbers[start : start + ROWS_PER_BATCH] for start in range(0, len(numbers), ROWS_PER_BATCH))
    if processes > 1 and len(numbers) >= MIN_ROWS_FOR_WORKERS:
        with ExitStack() as stack:
            try:
                running = stack.enter_context(start_workers(processes, work))
            except (WorkersUnavailable, OSError) as error:
                reporter.note(f"{doing} in one process, without workers: {error}")
            else:
                yield from running(rows, batches)
                return
    for batch in batches:
        yield work(_rows(rows, batch))


class WorkersUnavailable(Exception):  # noqa: N818  # it is a state, not a fault
    """Workers cannot be started; the message says why."""


@contextmanager
def start_workers(count: int, work: RowWork[T]) -> Iterator[Workers[T]]:
    """Start ``count`` workers, and end them with the block; raise WorkersUnavailable where they cannot be used."""
    if os.name != "posix":
        raise WorkersUnavailable("this system cannot pass a socket to a new process")
    try:
        sent = bytes(ForkingPickler.dumps(work))
    except Exception as error:
        reason = f"formatter or tokenizer cannot be sent to another process ({error})"
        raise WorkersUnavailable(reason) from error
    with ExitStack() as stack:
        started = [stack.enter_context(closing(_Worker())) for _ in range(count)]
        # First sent to all, so that they start together.
        begun = [worker.start(sent) for worker in started]
        if not all(begun) or not all(worker.ready() for worker in started):
            raise WorkersUnavailable("formatter or tokenizer cannot be loaded in another process")
        yield Workers(started, work)


class Workers(Generic[T]):
    """Running worker processes."""

    def __init__(self, running: Sequence[_Worker], work: RowWork[T]) -> None:
        self._running = running
        self._work = work
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        """Holds None once all workers have died."""
        self._alive = len(running)
        self._counting = threading.Lock()
        for worker in running:
            self._idle.put(worker)

    def __call__(self, rows: Rows, batches: Iterable[Sequence[int]]) -> Iterator[T]:
        """Yield the result for each batch of row numbers, in order."""
        # A thread for each worker: otherwise this process and a worker could block on sending to each other.
        with ThreadPoolExecutor(len(self._running)) as threads:
            pending: deque[tuple[Sequence[int], Pending[T]]] = deque()
            try:
                for numbers in batches:
                    pending.append((numbers, self._submit(threads, rows, numbers)))
                    if len(pending) >= (1 + _QUEUED) * len(self._running):
                        yield self._next(rows, pending)
                while pending:
                    yield self._next(rows, pending)
            except BaseException:
                for worker in self._running:
                    worker.kill()  # or the threads wait for their answers
                threads.shutdown(cancel_futures=True)
                raise

    def _submit(self, threads: ThreadPoolExecutor, rows: Rows, numbers: Sequence[int]) -> Pending[T]:
        try:
            return threads.submit(self._ask, _rows(rows, numbers))
        except Exception:
            return None  # read again, and reported, after the batches before it

    def _next(self, rows: Rows, pending: deque[tuple[Sequence[int], Pending[T]]]) -> T:
        numbers, future = pending.popleft()
        batch = None if future is None else future.result()
        return self._work(_rows(rows, numbers)) if batch is None else batch

    def _ask(self, rows: list[NumberedRow]) -> T | None:
        """Return a worker's result for the rows, or None where there is none."""
        worker = self._idle.get()
        batch = None
        if worker is not None:
            try:
                worker.connection.send(rows)
                batch = worker.connection.recv()
            except (EOFError, OSError):  # the worker died: out of memory, perhaps
                with self._counting:
                    self._alive -= 1
                    if self._alive:
                        return None
                worker = None
            except Exception:  # the rows cannot be sent
                batch = None
        self._idle.put(worker)
        return batch


class _Worker:
    """A process and the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from dpotrain.data.tokens.workers import serve; serve({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Each has one core to itself.
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            )

    def start(self, work: bytes) -> bool:
        """Send the work, and return whether the process received them."""
        try:
            self.connection.send_bytes(work)
        except OSError:
            return False
        return True

    def ready(self) -> bool:
        """Wait until the process has loaded the work, and return whether it could."""
        try:
            return bool(self.connection.recv())
        except (EOFError, OSError):
            return False

    def kill(self) -> None:
        """Kill the process, which holds nothing that could be lost."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process, if it still runs, and close the socket."""
        self.kill()
        self.connection.close()


def serve(socket: int) -> None:
    """Run as a worker: answer batches of rows from the socket of this number until it closes."""
    # Ctrl-C in a terminal reaches every process; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(socket)
    try:
        work: RowWork[Any] = ForkingPickler.loads(connection.recv_bytes())
    except Exception:
        connection.send(False)
        return
    connection.send(True)
    while True:
        try:
            connection.send(_answer(work, connection.recv_bytes()))
        except (EOFError, OSError):
            return


def _answer(work: RowWork[T], sent: bytes) -> T | None:
    try:
        return work(ForkingPickler.loads(sent))
    except Exception:
        return None  # the main process does the batch again and raises the error


def _rows(rows: Rows, numbers: Sequence[int]) -> list[NumberedRow]:
    return [(number, rows[number]) for number in numbers]
