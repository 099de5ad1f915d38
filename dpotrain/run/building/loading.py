"""Loading a model that processes may shard, without memory for all of it on each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch

from dpotrain.core.reporter import Reporter, showing_warnings
from dpotrain.engine.parallel.protocol import Parallel
from dpotrain.engine.scoring.precision import UpcastWeights
from dpotrain.plugin.api import LoadRequest, ModelLoader
from dpotrain.plugin.api.returns import WrongReturnError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Returns a loaded model made ready, and what of it is held in more bits than it was loaded in.
Prepare: TypeAlias = Callable[["PreTrainedModel"], "tuple[PreTrainedModel, UpcastWeights]"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, of which the numbers may still have to come."""

    model: PreTrainedModel
    upcast: UpcastWeights
    fill: Callable[[], None] | None = None
    """Where the parameters are on the meta device: reads or receives this process's rows of them, once they are
    sharded. Collective. Raises a RunError where files or loader do not hold what they promise."""


def load(
    loader: ModelLoader,
    request: LoadRequest,
    prepare: Prepare,
    parallel: Parallel,
    reporter: Reporter,
    *,
    reads_numbers: bool,
    what: str,
) -> Loaded:
    """Load a model and make it ready; where processes shard it, without its numbers. Collective.

    Each process reads its own rows if ``prepare`` needs no numbers (``reads_numbers`` is False) and the loader can open
    the model. Otherwise the main process loads, and the others get their rows from it. A model whose loader has no
    blueprint is loaded by every process, and so is a quantized one, which has none. ``what`` is what is loaded.
    """

    def ready(model: PreTrainedModel) -> tuple[PreTrainedModel, UpcastWeights]:
        with showing_warnings(reporter), reporter.phase("preparing the model", None):
            return prepare(model)

    def loaded(device: str) -> PreTrainedModel:
        with showing_warnings(reporter), reporter.phase(f"loading {what}", None):
            return loader.load_model(replace(request, device=device))

    if not parallel.shards_weights or request.quantization is not None:
        return Loaded(*ready(loaded(request.device)))
    from dpotrain.engine.sharding.filling import take_numbers
    from dpotrain.engine.sharding.whole_states import WholeStates
    from dpotrain.engine.sharding.whole_weights import Rounded

    assert isinstance(parallel, WholeStates)
    with showing_warnings(reporter), reporter.phase(f"opening {what}", None):
        opened = None if reads_numbers else loader.open_model(replace(request, device="cpu"))
        blueprint = None if opened is not None else loader.blueprint(replace(request, device="meta"))
    found = parallel.gather_objects((opened is not None, blueprint is not None))
    if opened is not None and all(each for each, _ in found):
        weights = {
            name: Rounded(opened.weights[name], weight.dtype)
            for name, weight in opened.model.named_parameters(remove_duplicate=False)
            if name in opened.weights
        }
        _check_whole(loader, opened.model, weights)
        model, upcast = ready(opened.model)
        return Loaded(model, upcast, partial(parallel.fill_from_files, model, weights))
    if blueprint is None or not all(each for _, each in found):
        return Loaded(*ready(loaded(request.device)))
    if parallel.is_main:
        model, upcast = ready(loaded("cpu"))
        return Loaded(model, upcast, partial(parallel.fill_from_main, model, take_numbers(model)))
    with torch.device("meta"):
        model, upcast = ready(blueprint)
    return Loaded(model, upcast, partial(parallel.fill_from_main, model, None))


def _check_whole(loader: ModelLoader, model: PreTrainedModel, weights: Collection[str]) -> None:
    """Raise a WrongReturnError where an opened model has parameters that nothing is read into."""
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    missing = [own[0] for own in names.values() if not any(name in weights for name in own)]
    if missing:
        raise WrongReturnError(
            f"open_model returned a model without weights for {len(missing)} of its parameters "
            f"({', '.join(missing[:3])}); it must return None where it cannot read all",
            loader,
        )
