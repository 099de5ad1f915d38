"""Both implementations of Parallel keep one contract; pairs go by data ranks, whatever the world ranks are."""

import ast
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.engine.parallel import replicated
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.progress import over_ranks
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.parallel.start import start
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build
from tests.engine.test_trainer import SIZES, trainer_of

ROOT = Path(__file__).parents[2]

#: What every process does: each method once, its results as JSON.
SCRIPT = """
import json, os, sys, torch
from dpotrain.engine.parallel import exchange
from dpotrain.engine.parallel.start import start
from dpotrain.engine.training.all_weights import AllWeights

parallel = start()
rank = parallel.world_rank
torch.manual_seed(0)
model = torch.nn.Linear(2, 1, bias=False)
with torch.no_grad():
    model.weight.add_(rank)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
placed, optimizer = parallel.place(model, optimizer)
weights = model.weight.tolist()[0]
for number in range(2):  # gradients of both micro-batches and all ranks
    placed(torch.tensor([[1.0 + rank, 10.0 * number]])).sum().backward()
parallel.exchange(list(model.parameters()))
grad = model.weight.grad.tolist()[0]
# Of every kind at once, in more than one bucket: without a gradient here, nowhere, and in 16 bits.
exchange.BUCKET_BYTES = 64
kinds = {
    "one rank": torch.zeros(3), "nowhere": torch.zeros(3), "large": torch.zeros(5, 7),
    "16 bits": torch.zeros(2, 3, dtype=torch.bfloat16), "64 bits": torch.zeros(2, dtype=torch.float64),
    "transposed": torch.zeros(3, 2).T, "last": torch.zeros(4),
}
kinds = {name: torch.nn.Parameter(each) for name, each in kinds.items()}
for name, each in kinds.items():
    if name != "nowhere" and (name != "one rank" or rank == parallel.world_size - 1):
        each.grad = torch.full_like(each, 1.0 + rank)
parallel.exchange(list(kinds.values()))
gradients = {name: each.grad for name, each in kinds.items()}
kinds = {name: each if each is None else sorted(set(each.flatten().tolist())) for name, each in gradients.items()}
norm = parallel.clip(list(model.parameters()), 1.0).item()
optimizer.step()
adapter = AllWeights(AllWeights.Options())
trained = {name: each.clone() for name, each in parallel.trained_state(adapter, model).items()}
state = parallel.optimizer_state(optimizer)
with torch.no_grad():
    model.weight.zero_()
parallel.load_trained(adapter, model, trained)
parallel.load_optimizer(optimizer, state)
parallel.wait()
with parallel.whole(adapter, model):
    whole = torch.equal(model.weight, trained["weight"])
found = {
    "rank": rank, "size": parallel.world_size, "kinds": kinds, "weights": weights,
    "data": [parallel.data_rank, parallel.data_size],
    "local": parallel.local_size, "main": parallel.is_main, "grad": grad, "norm": norm, "whole": whole,
    "steps": optimizer.state_dict()["state"][0]["step"].item(),
    "sum": parallel.sum(torch.tensor([1.0, float(rank)])).tolist(),
    "gathered": parallel.gather_objects({"rank": rank}), "broadcast": parallel.broadcast_object([rank, "x"]),
    "any": parallel.any(False, rank == parallel.world_size - 1),
}
all_found = parallel.gather_objects(found)
if rank == 0:
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(all_found))
parallel.leave()
os._exit(0)  # as the command does: threads of the backend may still be running
"""


KINDS = ("one rank", "nowhere", "large", "16 bits", "64 bits", "transposed", "last")


def test_one_process_exchanges_nothing(tmp_path):
    (alone,) = _results([sys.executable], tmp_path)
    assert alone["kinds"] == {name: None if name == "nowhere" else [1.0] for name in KINDS}
    assert (alone["grad"], alone["sum"]) == ([2.0, 10.0], [1.0, 0.0])
    assert (alone["gathered"], alone["any"]) == ([{"rank": 0}], [False, True])
    assert (alone["rank"], alone["size"], alone["data"], alone["local"], alone["main"]) == (
        *(0, 1, [0, 1]),
        *(1, True),
    )
    assert alone["whole"]
    assert alone["steps"] == 1


@pytest.mark.parametrize("bound", [math.inf, 1.0])
def test_gradients_that_are_not_clipped_are_not_written(bound):
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 2, 1)]
    for weight in weights[:2]:
        weight.grad = torch.full_like(weight, 2.0)
    versions = [weight.grad._version for weight in weights[:2]]
    norm = OneProcess(torch.device("cpu")).clip(weights, bound)
    assert norm.item() == pytest.approx(math.sqrt(5 * 4))
    written = [weight.grad._version for weight in weights[:2]] != versions
    assert written == (bound == 1.0)


def test_replicated_processes_add_up_gradients_and_agree(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    first, second = _results(torchrun, tmp_path)
    assert [each["rank"] for each in (first, second)] == [0, 1]
    assert [each["data"] for each in (first, second)] == [[0, 2], [1, 2]]
    assert [each["main"] for each in (first, second)] == [True, False]
    for each in (first, second):
        assert each["weights"] == first["weights"]
        assert each["grad"] == [6.0, 20.0]  # 2·1 + 2·2, and 10 + 10
        assert each["kinds"] == {**{name: [3.0] for name in KINDS}, "one rank": [2.0], "nowhere": None}
        assert (each["norm"], each["sum"]) == (pytest.approx(436**0.5), [2.0, 1.0])
        assert (each["gathered"], each["broadcast"]) == ([{"rank": 0}, {"rank": 1}], [0, "x"])
        assert each["any"] == [False, True]
        assert (each["local"], each["size"], each["whole"], each["steps"]) == (2, 2, True, 1)


def _results(command: list[str], tmp_path: Path) -> list[dict]:
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [*command, str(script), str(out)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("launched", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_launcher_of_one_process_is_no_reason_to_join_others(launched, monkeypatch):
    monkeypatch.setenv(launched, "1")
    assert type(start()) is OneProcess


def test_on_gpus_gradients_go_over_nccl_and_what_is_on_the_cpu_over_gloo(monkeypatch):
    asked = {}

    def init_process_group(*arguments, **named):
        asked.update(named, arguments=arguments)
        raise RunError("asked")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", init_process_group)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RunError, match="asked"):
        start()
    assert asked == {"arguments": ("cpu:gloo,cuda:nccl",), "timeout": replicated.EXCHANGE_TIMEOUT}
    assert replicated.CONTROL_TIMEOUT > 10 * replicated.EXCHANGE_TIMEOUT


def test_pairs_and_gradients_go_by_data_ranks():
    """Two world ranks that share a model are one data rank: neither takes half of the pairs."""

    class Sharing(OneProcess):
        world_size, world_rank = 2, 1

    trainers = [trainer_of(build("llama"), random_pairs(SIZES)) for _ in range(2)]
    trainers[1].parallel = Sharing(torch.device("cpu"))
    alone, sharing = (next(trainer.steps()).metrics["loss"] for trainer in trainers)
    assert sharing == alone


def test_both_implementations_have_the_protocol_and_nothing_else_calls_accelerate():
    methods = {name for name, _ in inspect.getmembers(Parallel, inspect.isfunction) if name[0] != "_"}
    assert methods <= {name for name, _ in inspect.getmembers(OneProcess, inspect.isfunction)}
    using = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dpotrain").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and any(
            str(name).split(".")[0] == "accelerate"
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        )
    }
    assert using == {"dpotrain/engine/parallel/replicated.py"}


@pytest.mark.parametrize("parts", [[10], [5, 5], [3, 1, 1], [1] * 7, []])
@pytest.mark.parametrize("total", [10, 14, 0])
def test_a_rank_s_own_items_advance_the_bar_of_all_to_its_end_and_no_further(parts, total):
    """One of two ranks may have all items, or none; a bar that went to 20 of 10 was shown."""
    steps: list[int] = []
    count = over_ranks(steps.append, sum(parts), total)
    for items in parts:
        count(items)
    assert sum(steps) == (total if parts else 0)
    assert all(step >= 0 for step in steps)
