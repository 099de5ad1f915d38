"""A run without weights and steps, to see which plugins it calls: ``dpotrain plugins --trace``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import PreparedData, prepare_data
from dpotrain.engine.attention.head_exchange import check_heads
from dpotrain.engine.scoring.router_loss import Routing
from dpotrain.engine.scoring.scorer import causal_lm
from dpotrain.engine.training.weight_groups import assign
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.describe.tracing import Call, methods_of, trace
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.failures import naming_components
from dpotrain.recipe.recipe import Recipe
from dpotrain.run.building.engine_builder import check_data, check_reference, policy_request

#: Rows of each split that go through formatter and tokenizer.
ROWS = 20


def dry_run(recipe: Recipe) -> list[str]:
    """Return the calls of a dry run in order, a line each, and then what the rest of a run would call.

    The tokenizer is loaded, rows are formatted, and the model is built without weights, as far as the loader can.
    Raises whatever the run itself would raise for that.
    """
    calls: list[Call] = []
    traced = replace(recipe, plugins=trace(recipe, recipe.plugins, calls.append))
    with naming_components(traced, traced.plugins):
        _prepare(traced)
    return [
        f"a dry run of {recipe.path}: no weights are loaded, and no step is made",
        *_numbered(calls),
        "what a run calls besides:",
        *(f"  {line}" for line in _rest(recipe, calls)),
    ]


def _prepare(recipe: Recipe) -> None:
    """Do what a run does before its first step, but for the weights."""
    tokenizer = recipe.model.load_tokenizer()
    data = prepare_data(recipe, tokenizer, SilentReporter(), preview=ROWS)
    attach_without_weights(recipe, data)


def attach_without_weights(recipe: Recipe, data: PreparedData) -> str:
    """Build the policy without its weights and attach the adapter, as far as the loader can.

    Returns a warning about the data, or "". Raises what the run would raise while it loads policy and reference for
    this data, but for what only the weights tell.
    """
    check_reference(recipe, data)
    model = recipe.model.blueprint(policy_request(recipe, "meta"))
    if model is None:
        return ""
    if recipe.quantizer is not None:
        recipe.quantizer.bits(model)
        model.requires_grad_(False)
    if recipe.adapter is not None:
        with torch.device("meta"):
            model = recipe.adapter.attach(model)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assign(recipe.optimizer.options.groups, trained)
    Routing.of(model, recipe.training.router_loss_weight)
    heads = getattr(causal_lm(model).config.get_text_config(), "num_attention_heads", None)
    if isinstance(heads, int):
        check_heads(heads, recipe.parallel.context)
    return check_data(model, "the policy", data, recipe.data.max_length)


def _numbered(calls: Sequence[Call]) -> Iterator[str]:
    number = 0
    for text, same in groupby(map(str, calls)):
        times = len(list(same))
        yield f"{number + 1:>4}  {text}" + (f", {times} times" if times > 1 else "")
        number += times


def _rest(recipe: Recipe, calls: Sequence[Call]) -> Iterator[str]:
    """Yield the methods that were not called yet, and who hears each run event, in the order of listeners."""
    for part in recipe.components:
        owner = f"{part.kind} {part.name}"
        called = {call.method for call in calls if call.component == owner}
        left = [name for name in methods_of(part) if name not in called and name not in EVENTS]
        if left:
            yield f"{owner} of {recipe.plugins.owner(type(part)).name}: {', '.join(left)}"
    events = RunEvents(recipe, recipe.plugins, SilentReporter(), recipe.logging.patience)
    for event in EVENTS:
        listeners = events.subscribers(event)
        if listeners:
            yield f"{event}: {', '.join(listeners)}"
