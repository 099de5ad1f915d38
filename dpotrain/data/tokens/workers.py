"""Formatting and tokenizing in several processes, with the results in order.

Workers are fresh interpreters that this process talks to over a socket each. They are not forked, because
threads are running here by now, nor started by ``multiprocessing``, which would import the person's own script
anew. They import neither torch nor accelerate.

Rows are read here and sent there, since a source's rows may be open files. Whatever goes wrong with a batch in
a worker, the batch is done again in this process, so that a person sees the error that they would see without
workers.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from dpotrain.data.tokens.rows import Batch, NumberedRow, RowTokenizer

if TYPE_CHECKING:
    from dpotrain.plugin.api import Rows

#: Batches that lie ready for each worker, so that none waits while this process reads rows.
_AHEAD = 2


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def tokenize_here(rows: Rows, batches: Iterable[range], tokenize: RowTokenizer) -> Iterator[Batch]:
    """Yield what becomes of each batch of row numbers, in order."""
    for numbers in batches:
        yield tokenize(_rows(rows, numbers))


class CannotStart(Exception):  # noqa: N818  # it is a state of things
    """There can be no workers; the message says why."""


@contextmanager
def workers(count: int, tokenize: RowTokenizer) -> Iterator[Workers]:
    """Start ``count`` workers, and end them whatever happens.

    Raises:
        CannotStart: formatter or tokenizer cannot be had in another process.
    """
    if os.name != "posix":
        raise CannotStart("this system cannot hand a socket to a new process")
    try:
        sent = bytes(ForkingPickler.dumps(tokenize))
    except Exception as error:
        raise CannotStart(f"formatter or tokenizer cannot be sent to another process ({error})") from error
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            worker = _Worker()
            stack.callback(worker.end)
            started.append(worker)
        # To all of them first, so that they begin together.
        begun = [worker.begins(sent) for worker in started]
        if not all(begun) or not all(worker.ready() for worker in started):
            raise CannotStart("formatter or tokenizer cannot be loaded in another process")
        yield Workers(started, tokenize)


class Workers:
    """Running worker processes."""

    def __init__(self, running: Sequence[_Worker], tokenize: RowTokenizer) -> None:
        self._running = running
        self._tokenize = tokenize
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        """None once all of them have ended by themselves."""
        self._alive = len(running)
        self._counting = threading.Lock()
        for worker in running:
            self._idle.put(worker)

    def __call__(self, rows: Rows, batches: Iterable[range]) -> Iterator[Batch]:
        """Yield what becomes of each batch of row numbers, in order, as :func:`tokenize_here` does."""
        # A thread for each worker: one that sends rows to a worker that sends a result would wait for ever.
        with ThreadPoolExecutor(len(self._running)) as threads:
            under_way: deque[tuple[range, Future[Batch | None] | None]] = deque()
            try:
                for numbers in batches:
                    under_way.append((numbers, self._submit(threads, rows, numbers)))
                    if len(under_way) >= (1 + _AHEAD) * len(self._running):
                        yield self._next(rows, under_way)
                while under_way:
                    yield self._next(rows, under_way)
            except BaseException:
                for worker in self._running:
                    worker.kill()  # or the threads would wait for their answers
                threads.shutdown(cancel_futures=True)
                raise

    def _submit(self, threads: ThreadPoolExecutor, rows: Rows, numbers: range) -> Future[Batch | None] | None:
        try:
            return threads.submit(self._ask, _rows(rows, numbers))
        except Exception:
            return None  # read again, and told, when the batches before it have been

    def _next(self, rows: Rows, under_way: deque[tuple[range, Future[Batch | None] | None]]) -> Batch:
        numbers, future = under_way.popleft()
        batch = None if future is None else future.result()
        return self._tokenize(_rows(rows, numbers)) if batch is None else batch

    def _ask(self, rows: list[NumberedRow]) -> Batch | None:
        """Return what becomes of the rows, or None where no worker can say."""
        worker = self._idle.get()
        batch = None
        if worker is not None:
            try:
                worker.connection.send(rows)
                batch = worker.connection.recv()
            except (EOFError, OSError):  # the worker has ended: out of memory, perhaps
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
    """One process, and this end of the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        begin = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"from dpotrain.data.tokens.workers import serve; serve({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", begin],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Each has one core to itself.
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            )

    def begins(self, tokenize: bytes) -> bool:
        """Send the work, and return whether the process got it."""
        try:
            self.connection.send_bytes(tokenize)
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
        """End the process: it holds nothing that could be lost."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill the process, if it still runs, and close the socket."""
        self.kill()
        self.connection.close()


def serve(socket: int) -> None:
    """Be a worker: take batches of rows from the socket of this number until it closes."""
    # Ctrl-C in a terminal reaches every process; the main one decides and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(socket)
    try:
        tokenize: RowTokenizer = ForkingPickler.loads(connection.recv_bytes())
    except Exception:
        connection.send(False)
        return
    connection.send(True)
    while True:
        try:
            connection.send(_answer(tokenize, connection.recv_bytes()))
        except (EOFError, OSError):
            return


def _answer(tokenize: RowTokenizer, sent: bytes) -> Batch | None:
    try:
        return tokenize(ForkingPickler.loads(sent))
    except Exception:
        return None  # the main process does the batch again, and meets the error itself


def _rows(rows: Rows, numbers: range) -> list[NumberedRow]:
    return [(number, rows[number]) for number in numbers]
