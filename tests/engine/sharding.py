"""Training steps of a tiny model on the processes of a launcher, or on one: ``python -m tests.engine.sharding``.

Each case is a dictionary of the keyword arguments of :func:`steps`, of ``shards`` and ``offload``; the main process
writes what all of them found.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.core.random_state import seed_all
from dpotrain.data.batches.mixture import Mixture
from dpotrain.data.batches.packing import pack
from dpotrain.data.batches.plan import BatchPlan, Costs
from dpotrain.engine.layers.checkpointing import checkpoint_layers, decoder_layers
from dpotrain.engine.layers.compiling import compile_layers
from dpotrain.engine.layers.memory_efficient import use_memory_efficient_layers
from dpotrain.engine.layers.offloading import offload_inputs
from dpotrain.engine.layers.tiling import proven_modules, tile
from dpotrain.engine.memory.model_size import count
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.reference.reference import (
    LiveReference,
    MovingReference,
    PrecomputedReference,
    Reference,
)
from dpotrain.engine.reference.second_copy import SecondCopy
from dpotrain.engine.scoring.probe import choose_scorer
from dpotrain.engine.scoring.router_loss import RouterLoss, Routing
from dpotrain.engine.scoring.scorer import Scorer, causal_lm
from dpotrain.engine.scoring.tied_head import share_gradient
from dpotrain.engine.sharding.shards import local_shard
from dpotrain.engine.training.all_weights import AllWeights
from dpotrain.engine.training.optimizer import build_optimizer
from dpotrain.engine.training.trainer import Trainer
from dpotrain.engine.training.unfinished import Interrupted
from dpotrain.plugin.api import Adapter, Loss
from dpotrain.recipe.sections.reference import ReferenceUpdate
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.optimizers import AdamW, Lion
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit
from dpotrain_plugins.schedules import Constant
from tests.engine.pairs import random_pairs
from tests.engine.test_packed_equals_unpacked import build

SIZES = [(5, 9, 3), (2, 1, 17), (11, 4, 4), (1, 2, 2), (7, 7, 30), (3, 20, 6), (9, 2, 5), (4, 4, 8)]
RATE = 3e-3


class Sigmoid(Loss):
    name = "sigmoid"

    def __call__(self, scores):
        return -F.logsigmoid(0.5 * (scores.chosen_logratio - scores.rejected_logratio))


class Coupled(Loss):
    """Each pair's margin against the mean one of the step."""

    name = "coupled"
    couples_pairs = True

    def __call__(self, scores):
        margin = scores.chosen_logratio - scores.rejected_logratio
        return -F.logsigmoid(0.5 * (margin - 0.5 * margin.mean()))


def adapter_of(name: str) -> Adapter:
    if name in ("lora", "dora"):
        return Lora(Lora.Options(rank=4, alpha=8, dora=name == "dora"))
    if name == "layers":
        return Layers(Layers.Options(last=1))
    return AllWeights(AllWeights.Options())


def in_four_bits(model: Any, storage: str) -> None:
    """Quantize a model's layers in place, as the quantizer has transformers do it; codes are held in ``storage``."""
    for layer in decoder_layers(model):
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                few = Linear4bit(
                    module.in_features, module.out_features, module.bias is not None,
                    quant_type="nf4", quant_storage=getattr(torch, storage),
                )  # fmt: skip
                few.load_state_dict(module.state_dict())
                layer.set_submodule(name, few.to("cpu"))
    model.is_loaded_in_4bit = True  # peft asks
    Bnb4bit(Bnb4bit.Options()).prepare(model)


def reference_of(name: str, scorer: Scorer, adapter: Adapter, data: Any) -> Reference:
    if name == "stored":
        with torch.no_grad():
            sums = torch.cat([scorer(pack(data, [index])) for index in range(len(data))])
        return PrecomputedReference(sums)
    if name == "moving":
        return MovingReference(scorer, ReferenceUpdate(every=2, share=0.5))
    if isinstance(adapter, Lora):
        return LiveReference(scorer, partial(adapter.reference, scorer.policy))
    return LiveReference(scorer, SecondCopy(scorer.policy).in_policy)


def steps(
    parallel: Parallel,
    *,
    kind: str = "llama",
    model: dict[str, Any] | None = None,
    adapter: str = "",
    reference: str = "stored",
    loss: str = "sigmoid",
    optimizer: str = "adamw",
    budget: int = 40,
    checkpointed: int = 0,
    tiles: int = 0,
    on_host: bool = False,
    compiled: str = "",
    bf16: bool = False,
    four_bits: str = "",
    damage: str = "",
    steps: int = 6,
    stop_on: int | None = None,
) -> dict[str, Any]:
    """Take some steps, and return their losses and gradient norms, the weights after them, and what they take.

    ``four_bits`` is the dtype of the storage of 4-bit weights. ``damage`` names one of them, of which rank 1 has
    another byte than the others.
    """
    seed_all(0)
    before, codes_before = _alive(torch.is_floating_point), _alive(is_code)
    data = random_pairs(SIZES)
    policy: Any = build(kind, **{"initializer_range": 0.1, **(model or {})})
    chosen = adapter_of(adapter)
    if four_bits:
        in_four_bits(policy, four_bits)
    policy = chosen.attach(policy)
    layers = decoder_layers(causal_lm(policy))
    if damage and parallel.world_rank == 1:
        policy.get_parameter(damage).data.view(torch.uint8)[0] ^= 1
    try:
        parallel.shard(policy, layers, bf16=bf16, in_place=adapter not in ("lora", "dora"))
    except RunError as error:
        return {"ended": str(error)}
    if not compiled:
        use_memory_efficient_layers(policy)
    share_gradient(causal_lm(policy))
    with parallel.gathered(policy):
        scorer = choose_scorer(policy, pack(data, range(len(data))), packing="auto", bf16=bf16).scorer
    scorer.computing = parallel.computing(policy)
    routing = Routing.of(policy, "auto")
    of_data = reference_of(reference, scorer, chosen, data)
    checkpoint_layers(policy, checkpointed)
    if tiles:
        with parallel.gathered(policy):
            modules = proven_modules(policy, bf16)
        tile((module for each in modules for module in each), tiles)
    if on_host:
        offload_inputs(policy)
    component = {"adamw": AdamW(AdamW.Options(lr=RATE)), "lion": Lion(Lion.Options(lr=RATE / 10))}[optimizer]
    if compiled:
        torch.compiler.set_stance(force_backend=compiled)
        compile_layers(policy)
    built = build_optimizer(component, policy, optimized=parallel.optimized)
    scorer, built = parallel.place(scorer, built)
    asked = [0]

    def interrupted() -> bool:
        asked[0] += 1
        return parallel.agreed(stop_on is not None and parallel.world_rank == 1 and asked[0] == stop_on)

    trainer = Trainer(
        parallel=parallel,
        scorer=scorer,
        optimizer=built,
        loss={"sigmoid": Sigmoid, "coupled": Coupled}[loss](Loss.Options(beta=0.5)),
        plan=BatchPlan(
            Mixture.single(len(data)), Costs.of_data(data, padded=not scorer.packs), 0, 5, budget, 9,
            max_steps=steps, ranks=parallel.data_size,
        ),
        data=data,
        reference=of_data,
        schedule=Constant(Constant.Options()),
        peak_learning_rate=RATE,
        max_grad_norm=1.0,
        first_loss=None,
        interrupted=interrupted,
        router_loss=None if routing is None else RouterLoss(routing, scorer),
    )  # fmt: skip
    records, ended = [], ""
    try:
        records = list(trainer.steps())
    except Interrupted:
        ended = "interrupted"
    size = count(policy)
    state = [each for of in built.state.values() for each in of.values() if isinstance(each, torch.Tensor)]
    return {
        "loss": [record.metrics["loss"] for record in records],
        "grad_norm": [record.metrics["grad_norm"] for record in records],
        "weights": {name: _whole(each).tolist() for name, each in policy.named_parameters()},
        "packs": scorer.packs,
        "ended": ended,
        "layers": sorted(
            {type(each).__name__ for each in policy.modules() if isinstance(each, LoraLinear4bit)}
        ),
        "parameters": size.parameters,
        "bytes": {
            "weights": size.bytes,
            "codes": sum(local_shard(each).nbytes for each in policy.parameters() if is_code(each)),
            "gradients": sum(each.bytes for each in size.trained),
            "optimizer": sum(each.nbytes for each in state),
            "alive": _alive(torch.is_floating_point) - before,
            "alive codes": _alive(is_code) - codes_before,
        },
    }


def is_code(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.uint8


def _whole(weight: torch.Tensor) -> torch.Tensor:
    whole = (weight.full_tensor() if hasattr(weight, "full_tensor") else weight).detach()
    # Codes that are held as numbers may read as anything.
    return (whole if whole.isfinite().all() else whole.view(torch.uint8)).double()


def _alive(counts: Callable[[torch.Tensor], bool]) -> int:
    """Return the bytes of all tensors of this process that count, shared memory once."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        kind = type(each)  # asking isinstance imports what some modules import on demand
        if issubclass(kind, torch.Tensor) and not hasattr(each, "to_local") and counts(each):
            storage = each.untyped_storage()
            if isinstance(storage.nbytes(), int):  # and not a symbol of a compiler's
                found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def main(cases: list[dict[str, Any]], out: Path) -> None:
    from dpotrain.engine.parallel.start import start
    from dpotrain.engine.sharding import sharded_model
    from dpotrain.engine.sharding.sharded import Sharded

    # Memory is pinned for a GPU.
    sharded_model.CPUOffloadPolicy = partial(sharded_model.CPUOffloadPolicy, pin_memory=False)

    torch.set_num_threads(1)
    joined = start()
    found = []
    for case in cases:
        shards = case.pop("shards", 0)
        parallel = Sharded(joined, shards) if shards else joined
        if case.pop("offload", False):  # as for a GPU; of a CPU all memory is the host's
            parallel._offload, parallel.shards_on = True, torch.device("cpu")
        found.append(parallel.gather_objects(steps(parallel, **case)))
        joined.wait()
    if joined.is_main:
        out.write_text(json.dumps(found), encoding="utf-8")
    joined.leave()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # as the command does: threads of the backend may still be running
