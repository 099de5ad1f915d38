"""What a process of a run learns of the others' failures, and what it raises for them."""

import threading
import time

import pytest
import torch
from torch.distributed import TCPStore

from dpotrain.core.errors import DataError, RunError, RunStopped
from dpotrain.engine.parallel import watch
from dpotrain.engine.parallel.errors import OutOfMemoryElsewhereError, distributed_errors
from dpotrain.engine.parallel.failure import RankFailure
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.watch import Watch
from dpotrain.engine.training.agreement import RanOut, agreeing
from dpotrain.engine.training.unfinished import Interrupted

#: Seconds after which a thread that should have acted will not.
LONG = 60


class Told:
    """What a watch calls, and when."""

    def __init__(self, fails: bool = False) -> None:
        self.told, self.left, self._fails = threading.Event(), threading.Event(), fails

    def hear(self, failure: RankFailure) -> None:
        self.told.set()
        if self._fails:
            raise ValueError

    def leave(self, failure: RankFailure) -> None:
        self.left.set()


@pytest.fixture
def store(monkeypatch):
    for name, value in {"BEAT": 0.01, "SILENT": 60, "GRACE": LONG}.items():
        monkeypatch.setattr(watch, name, value)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


@pytest.fixture
def three(store):
    """Three ranks, each with what its watch calls."""
    found = [(Watch(rank, 3, "run"), Told(fails=rank == 2)) for rank in range(3)]
    for each, told in found:
        each.on_failure(told.hear, told.leave)
    yield found
    for each, _ in found:
        each.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_is_told_to_all_others_and_ends_a_process_that_does_not_end_itself(
    failing, three, monkeypatch
):
    monkeypatch.setattr(watch, "GRACE", 0.01)
    three[failing][0].fail("broken", 3)
    for rank, (each, told) in enumerate(three):
        if rank != failing:
            failure = each.failure(LONG)
            assert (failure.rank, failure.text, failure.code) == (failing, "broken", 3)
            assert told.told.is_set()
            assert told.left.wait(LONG)
    assert not three[failing][1].told.is_set()


def test_a_process_that_ends_itself_is_not_ended(three):
    """Its own error, which comes of the first one, is not told to anybody."""
    three[0][0].fail("broken", 3)
    for each, told in three[1:]:
        assert each.failure(LONG).text == "broken"
        each.fail("an exchange has failed", 1)
        each.close()
        assert not told.left.is_set()


def test_a_rank_without_a_message_is_missed_during_an_exchange_only(three):
    three[1][0].close()
    (first, told), (last, _) = three[0], three[2]
    time.sleep(2 * watch.SILENT * watch.BEAT)
    assert not told.told.is_set()
    first.exchanging = True
    for each in (first, last):
        failure = each.failure(LONG)
        assert failure.rank == 1
        assert str(failure).startswith("process 1: it has ended without a message.\nIts launcher's output")
        each.fail("an exchange has failed", 1)


def test_a_store_that_is_gone_is_a_failure(store, monkeypatch):
    """It is the launcher's, or of the first process."""
    last, told = Watch(1, 2, "run"), Told()
    last.on_failure(told.hear, told.leave)

    class Gone:
        def add(self, *arguments):
            raise torch.distributed.DistNetworkError

        compare_set = add

    monkeypatch.setattr(last, "_store", Gone())
    assert last.failure(LONG).text.startswith("it has ended without a message, or the launcher has.")
    last.fail("an exchange has failed", 1)
    assert not told.left.is_set()


def test_processes_that_are_done_are_not_missed(three):
    for each, told in three:
        each.exchanging = True
        each.close()
        assert each.failure(0) is None
        assert not told.told.is_set()


@pytest.mark.parametrize(
    ("code", "kind"), [(1, RunError), (3, DataError), (75, RunStopped), (130, KeyboardInterrupt)]
)
def test_the_others_raise_what_ends_them_with_the_same_exit_code(code, kind):
    failure = RankFailure.from_json(RankFailure(1, "node-7", "broken", code).as_json())
    error = failure.error()
    assert type(error) is kind
    if isinstance(error, RunError | DataError | RunStopped):
        assert error.exit_code == code
        assert str(error) == "process 1 on node-7: broken"


class Failed(OneProcess):
    """A process that knows of another one's failure."""

    def failure(self, seconds):
        return RankFailure(1, "", "broken", 3)


@pytest.mark.parametrize(
    "raised", [RuntimeError("gloo: closed"), OutOfMemoryElsewhereError(), RunStopped("SIGTERM")]
)
def test_what_comes_of_another_process_is_raised_as_its_error(raised):
    with pytest.raises(DataError, match="process 1: broken"), distributed_errors(Failed()):
        raise raised
    expected = "another process of this run has ended" if isinstance(raised, RuntimeError) else str(raised)
    with pytest.raises((RunError, RunStopped), match=expected), distributed_errors(OneProcess()):
        raise raised


@pytest.mark.parametrize(
    "raised", [RuntimeError("of its own"), ValueError("of its own"), RunError("of its own")]
)
def test_an_error_of_its_own_stays(raised):
    with pytest.raises(type(raised), match="of its own"), distributed_errors(Failed()):
        raise raised


class Two(OneProcess):
    """One of two ranks; the other one's flags are given."""

    def __init__(self, *others: bool) -> None:
        super().__init__(torch.device("cpu"))
        self.others = others

    def any(self, *flags):
        return [own or other for own, other in zip(flags, self.others, strict=True)]


MEMORY = torch.OutOfMemoryError("too large")


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (None, (False, False), None),
        (None, (True, False), Interrupted),
        (None, (False, True), RanOut),
        (MEMORY, (False, False), RanOut),
        # All ranks must raise the same.
        (MEMORY, (True, False), Interrupted),
        (Interrupted(), (False, True), Interrupted),
        (ValueError("broken"), (True, True), ValueError),
    ],
)
def test_ranks_agree_about_what_happened_to_one(own, others, expected):
    seen = None
    try:
        with agreeing(Two(*others)):
            if own is not None:
                raise own
    except Exception as error:
        seen = error
    assert type(seen) is (type(None) if expected is None else expected)
    if isinstance(seen, RanOut):
        assert seen.error() is own or isinstance(seen.error(), OutOfMemoryElsewhereError)
