"""What only shows with several tables at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import Callback, Exporter, InPlaceAdapter, Loss, Selection
from dpotrain.plugin.runtime.metric_names import faults
from dpotrain.recipe.objective_checks import check_objective
from dpotrain.recipe.prompts import read_prompts
from dpotrain.recipe.sections.samples import SamplesSection
from dpotrain.recipe.sharding import sharding_fault
from dpotrain.recipe.tables import TableReader


def check_across_tables(reader: TableReader, sections: Mapping[str, Any], selection: Selection) -> None:
    """Collect what tables of a recipe rule out in each other. Sections and components that are wrong are missing."""
    trains_all_weights = reader.tree.document.get("adapter", False) is False
    quantizer = selection.quantizer
    adapter = selection.adapter
    if quantizer is not None and not quantizer.trains_all_weights:
        text = ""
        if trains_all_weights:
            text = (
                "there is no [adapter] to train beside them\neither add an [adapter], or remove [quantizer] "
                "(quantizer = false) to train all weights"
            )
        elif isinstance(adapter, InPlaceAdapter):
            text = (
                f'the "{adapter.name}" adapter trains weights of the model\neither remove [quantizer] '
                '(quantizer = false), or take an adapter that trains beside them: adapter.use = "lora"'
            )
        if text:
            text = f"{quantizer.name} weights cannot be trained themselves, and {text}"
            reader.problems.add(("quantizer",), (), text)
    _check_without_effect(reader, sections)
    _check_context(reader, sections)
    _check_sharding(reader, sections, selection)
    check_objective(reader, sections, selection.one_of(Loss))
    for index, exporter in enumerate(selection.all_of(Exporter)):
        if not exporter.needs_adapter:
            continue
        if trains_all_weights:
            text = (
                f"{exporter.name} needs an [adapter], and without one final/ is a whole model; leave it out"
            )
            reader.problems.add(("exporters", index), (), text)
        elif isinstance(adapter, InPlaceAdapter):
            text = (
                f'final/ of the "{adapter.name}" adapter is a whole model already; leave {exporter.name} out'
            )
            reader.problems.add(("exporters", index), (), text)
    _check_metrics(reader, selection)
    _check_callbacks(reader, sections, selection)
    _check_prompts(reader, sections["samples"])


def _check_prompts(reader: TableReader, samples: SamplesSection | None) -> None:
    """Refuse prompts to sample that cannot be read."""
    if samples is None or samples.prompts == "held-out":
        return
    try:
        read_prompts(samples.prompts)
    except RecipeError as error:
        reader.problems.add(("samples",), ("prompts",), str(error))


def _check_without_effect(reader: TableReader, sections: Mapping[str, Any]) -> None:
    """Refuse keys that have no effect because of another table."""
    add = reader.problems.add
    data, evaluation, reference = (sections[name] for name in ("data", "evaluation", "reference"))
    samples = sections["samples"]
    if data and not data.has_evaluation_set:
        text = "there are no held-out pairs to evaluate on; set data.eval_fraction or data.eval_split"
        # Samples follow the same steps, and need no pairs.
        wrong = ("pairs", "best") if samples else ("every", "pairs", "best")
        for key in wrong:
            if evaluation and getattr(evaluation, key):
                add(("evaluation",), (key,), text)
        if samples and samples.prompts == "held-out":
            text = "there are no held-out pairs; set data.eval_fraction or data.eval_split, or name a file or a list"
            add(("samples",), ("prompts",), text)
    elif evaluation and evaluation.best and not evaluation.every:
        text = "without evaluations during training the last step is the only choice; set evaluation.every"
        add(("evaluation",), ("best",), text)
    if reference and reference.store and reference.when == "live":
        add(("reference",), ("store",), 'with when = "live" nothing is stored; keep one of the two')


def _check_context(reader: TableReader, sections: Mapping[str, Any]) -> None:
    """Refuse what cannot be where several processes compute each pair."""
    parallel, training = sections["parallel"], sections["training"]
    if not parallel or not training or parallel.context == 1:
        return
    text = f"with parallel.context = {parallel.context} {{}}; remove one of the two"
    if training.packing == "off":
        reader.problems.add(("training",), ("packing",), text.format("pairs must be packed"))
    if training.compile:
        why = "layers exchange what they attend to, which is not compiled"
        reader.problems.add(("training",), ("compile",), text.format(why))


def _check_metrics(reader: TableReader, selection: Selection) -> None:
    """Refuse metrics whose names collide or that records cannot hold."""
    for index, metric in enumerate(selection.metrics):
        try:
            metric.measures  # noqa: B018 - a property of a plugin's own may raise
        except Exception as error:
            reader.add_failure(("metrics", index), type(metric), "measures", error)
            return
    for index, text in faults(selection.metrics, reader.plugins):
        reader.problems.add(("metrics", index), (), text)


def _check_callbacks(reader: TableReader, sections: Mapping[str, Any], selection: Selection) -> None:
    """Refuse callbacks that would never do anything."""
    evaluation = sections["evaluation"]
    for index, callback in enumerate(selection.all_of(Callback)):
        if callback.needs_evaluations and evaluation is not None and evaluation.every is None:
            text = f"{callback.name} needs evaluations during training; set evaluation.every"
            reader.problems.add(("callbacks", index), (), text)


def _check_sharding(reader: TableReader, sections: Mapping[str, Any], selection: Selection) -> None:
    """Refuse to shard weights that cannot be sharded; 'shard = "auto"' shards none of them."""
    parallel, reference = sections["parallel"], sections["reference"]
    if not parallel or parallel.shard != "all":
        return
    fault = sharding_fault(selection, reference.quantizer if reference else None)
    if fault is not None:
        key, text = fault
        reader.problems.add(("parallel",), ("shard",), f'{key}: {text}; or set shard = "none"')
