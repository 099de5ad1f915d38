"""Policies loaded by several processes that shard them, against one that is loaded whole.

``python -m torch.distributed.run … -m tests.run.loading_by_hand same FOLDER OUT`` does that on every process, and
``… memory FOLDER OUT`` writes what that took of each process's memory, in whole models.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from dpotrain.core.random_state import seed_all
from dpotrain.core.reporter import SilentReporter
from dpotrain.engine.parallel.one_process import OneProcess
from dpotrain.engine.parallel.replicated import Replicated
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.run.building.engine_builder import load_policy
from dpotrain.run.building.loading import Loaded
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.transformers_loader import TransformersLoader
from tests.engine.sharded_by_hand import ByHand, own_part
from tests.support import tiny_checkpoint


class NotOpened(TransformersLoader):
    """Brings whole models, and their shapes."""

    def open_model(self, request):
        return None


class Whole(NotOpened):
    """Brings whole models only."""

    def blueprint(self, request):
        return None


#: Loader, adapter with its options, dtype of the weights.
CASES = {
    "files": (TransformersLoader, AllWeights, {}, "auto"),
    "files, upcast": (TransformersLoader, AllWeights, {}, "bfloat16"),
    "files, layers": (TransformersLoader, Layers, {"last": 1}, "bfloat16"),
    "main process": (NotOpened, AllWeights, {}, "auto"),
    "main process, lora": (TransformersLoader, Lora, {"rank": 3}, "auto"),
    "main process, dora": (TransformersLoader, Lora, {"rank": 3, "dora": True}, "bfloat16"),
    "main process, merged": (TransformersLoader, Lora, {"rank": 3, "merge": True}, "auto"),
    "every process": (Whole, AllWeights, {}, "auto"),
}


def cases(folder: Path) -> list[str]:
    """Return the cases that the model in a folder has: peft knows no DoRA of experts that are one tensor."""
    experts = "num_local_experts" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return [case for case in CASES if not (experts and "dora" in case)]


def selected(case: str, folder: Path, dtype: str = "") -> SimpleNamespace:
    """Return what a recipe would have selected."""
    loader, adapter, options, own = CASES[case]
    return SimpleNamespace(
        model=loader(loader.Options(name=str(folder), dtype=dtype or own)),
        quantizer=None,
        adapter=adapter(adapter.Options(**options)),
        trains_in_place=adapter is not Lora,
    )


def loaded(processes: ByHand, selection: SimpleNamespace) -> Loaded:
    """Load, shard and fill a policy."""
    seed_all(0)
    loaded = load_policy(selection, selection.adapter, "fp32", processes, SilentReporter())
    (layers,) = (module for module in loaded.model.modules() if isinstance(module, nn.ModuleList))
    processes.shard(loaded.model, list(layers))
    if loaded.fill is not None:
        loaded.fill()
    loaded.model._apply(lambda tensor: tensor)
    return loaded


def same(processes: ByHand, folder: Path, out: Path) -> None:
    """Compare every weight with the one that is loaded whole, and save both."""
    for case in cases(folder):
        selection = selected(case, folder)
        adapter = selection.adapter
        seed_all(0)
        alone = load_policy(selection, adapter, "fp32", OneProcess(processes.device), SilentReporter())
        sharded = loaded(processes, selection)
        policy, weights = sharded.model, dict(alone.model.named_parameters())
        for name, weight in policy.named_parameters():
            whole = weights.pop(name).detach()
            assert (weight.dtype, weight.requires_grad) == (
                whole.dtype,
                alone.model.get_parameter(name).requires_grad,
            ), name
            assert local_shard(weight).equal(own_part(whole, weight)), (case, name)
        assert not weights
        for name, buffer in alone.model.named_buffers():
            assert policy.get_buffer(name).equal(buffer), (case, name)
        with processes.whole(adapter, policy):
            if processes.is_main:
                for which, each in (("sharded", sharded), ("alone", alone)):
                    target = out / case / which
                    target.mkdir(parents=True)
                    with each.upcast.as_loaded():
                        adapter.save(each.model, target)
        processes.wait()


def memory(processes: ByHand, folder: Path, out: Path) -> None:
    """Write the most memory of each process while it loads in float32, in whole models of that."""
    small = folder.parent / "small"
    if processes.is_main:
        tiny_checkpoint(small)
    processes.wait()
    found = {}
    for case in ("files", "main process"):
        loaded(processes, selected(case, small))  # what is imported and kept for good
        with Peak() as peak:
            policy = loaded(processes, selected(case, folder, "float32")).model
        whole = sum(weight.numel() * weight.element_size() for weight in policy.parameters())
        found[case] = processes.gather_objects(peak.bytes / whole)
        del policy
    if processes.is_main:
        out.write_text(json.dumps(found), encoding="utf-8")


class Peak:
    """The most memory, but for mapped files, that the process has had more than at the beginning."""

    def __enter__(self):
        self.bytes, self._before, self._done = 0, _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.001):
            self.bytes = max(self.bytes, _anonymous() - self._before)


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])


if __name__ == "__main__":
    _, what, *arguments = sys.argv
    everyone = ByHand(Replicated(), int(os.environ["WORLD_SIZE"]))
    {"same": same, "memory": memory}[what](everyone, *map(Path, arguments))
    everyone.leave()
    os._exit(0)  # as the command does: threads of the backend may still be running
