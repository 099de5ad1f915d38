"""What a run's end is measured by, known before its first step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpotrain.data.batches.plan import BatchPlan
from dpotrain.engine.memory.model_size import count
from dpotrain.engine.memory.planner import MemoryPlan
from dpotrain.engine.reference.plan import ReferencePlan
from dpotrain.engine.scoring.scorer import Scorer
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import EngineBuilder
from dpotrain.run.measurements import Measuring, device_name, key_of
from dpotrain.run.speed import ModelWork, Workload, first_passes


class Clocks:
    """How long a run takes to load: from now on, but for what depends on the number of its pairs."""

    def __init__(self) -> None:
        self._began, self._apart = time.perf_counter(), 0.0

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave out the time inside."""
        began = time.perf_counter()
        yield
        self._apart += time.perf_counter() - began

    def loading(self) -> float:
        """Return the seconds until now."""
        return time.perf_counter() - self._began - self._apart


def measuring_of(
    recipe: Recipe,
    engine: EngineBuilder,
    scorer: Scorer,
    plan: BatchPlan,
    memory: MemoryPlan,
    cache: Path | None,
    loading: float,
) -> Measuring | None:
    """Return what measures the run at its end; None for a model whose operations cannot be counted."""
    parallel, train = engine.parallel, engine.data.train
    size = count(scorer.policy)
    try:
        work = ModelWork.of(scorer.policy, size, in_place=recipe.trains_in_place)
    except (AttributeError, TypeError, ValueError, ArithmeticError):  # a configuration of another kind
        return None
    passes = ReferencePlan.of(recipe).passes_per_step + first_passes(recipe, scorer.policy, plan)
    recomputed = memory.fit.checkpointed / max(1, memory.fit.layers)
    load = Workload.of(train, plan.costs.padded)
    operations = work.training(load, reference_passes=passes, recomputed=recomputed)
    device = device_name(parallel.device, memory.share.layout)
    return Measuring(
        cache=cache if parallel.is_main else None,
        key=key_of(recipe, size, device=device, precision=engine.precision, packed=scorer.packs),
        operations_per_token=operations / max(1, int(train.lengths.sum())),
        memory=memory,
        weights=memory.share.weights,
        activations=memory.activation_bytes(plan),
        loading=loading,
    )
