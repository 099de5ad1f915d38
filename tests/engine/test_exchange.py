"""Adding up gradients over ranks: in place, in buckets, in enough bits; here with one rank, whose sums are its own."""

import socket

import pytest
import torch
from accelerate.state import AcceleratorState

from dpotrain.engine.parallel import exchange
from dpotrain.engine.parallel.replicated import Replicated

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="would compute over NCCL")


@pytest.fixture
def alone(monkeypatch):
    """A launched run of one process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    launched = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "LOCAL_WORLD_SIZE": "1",
    }
    for name, value in {**launched, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    yield Replicated()
    torch.set_num_threads(threads)
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def sent(monkeypatch):
    """The tensors that are added up, in order."""
    seen = []
    ordinary = torch.distributed.all_reduce

    def all_reduce(tensor, *arguments, **named):
        seen.append(tensor)
        return ordinary(tensor, *arguments, **named)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 64)
    return seen


def test_small_gradients_share_a_bucket_and_large_ones_are_added_up_in_place(alone, sent):
    shapes = [(2, 3), (5,), (40,), (3, 2), (4,)]
    tensors = [torch.randn(shape) for shape in shapes]
    tensors[3] = tensors[3].T  # not contiguous
    expected, places = [each.clone() for each in tensors], [each.data_ptr() for each in tensors]
    exchange.sum_over_ranks(tensors)
    assert [each.numel() for each in sent] == [11, 40, 10]
    assert sent[1] is tensors[2]
    assert all(map(torch.equal, tensors, expected))
    assert [each.data_ptr() for each in tensors] == places


def test_16_bits_are_added_up_in_32(alone, sent):
    tensors = [torch.randn(3).to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)]
    tensors.append(torch.randn(50).bfloat16())
    expected = [each.clone() for each in tensors]
    exchange.sum_over_ranks(tensors)
    assert [each.dtype for each in sent] == [torch.float32, torch.float64, torch.float32]
    assert all(map(torch.equal, tensors, expected))


def test_gradients_stay_where_they_are_and_a_weight_without_one_stays_without(alone):
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad, weights[2].grad = torch.ones(3), torch.full((3,), 2.0)
    before = [weights[0].grad, None, weights[2].grad]
    alone.exchange(weights)
    assert all(weight.grad is grad for weight, grad in zip(weights, before, strict=True))
    assert weights[2].grad.tolist() == [2.0] * 3


def test_a_run_of_one_launched_process_waits_for_nobody(alone):
    assert (alone.world_rank, alone.world_size, alone.local_size, alone.is_main) == (0, 1, 1, True)
    assert alone.sum(torch.tensor([1.5])).tolist() == [1.5]
    assert alone.gather_objects("a") == ["a"]
    assert alone.broadcast_object("a") == "a"
    assert alone.any(False, True) == [False, True]
    alone.on_failure(print, print)
    alone.fail("broken", 1)
    assert alone.failure(60) is None
    layer = torch.nn.Linear(2, 2)
    assert alone.place(layer, None) == (layer, None)
    alone.leave()
