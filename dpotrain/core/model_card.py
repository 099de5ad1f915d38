"""The model card of a result: what was trained, on what, how, with which result, how to use it, which versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from dpotrain.core.formats import interval, number, share
from dpotrain.core.masking import mask, mask_data
from dpotrain.core.records import Outcome
from dpotrain.core.statistics import wilson

#: The metrics of an evaluation that a card has room for, and how they are written.
_SHOWN = {
    "loss": number,
    "rewards/accuracies": share,
    "rewards/margins": number,
    "rewards/chosen": number,
    "rewards/rejected": number,
}
#: Keys of a recipe that people look for first.
_HYPERPARAMETERS = (
    *("loss.use", "loss.beta", "loss.label_smoothing", "optimizer.use", "optimizer.lr", "schedule.use"),
    *(
        "training.epochs",
        "training.steps",
        "training.pairs_per_step",
        "training.precision",
        "data.max_length",
        "data.max_prompt_length",
        "data.truncation",
    ),
    *("adapter.use", "adapter.rank", "adapter.alpha", "quantizer.use", "seed"),
)
#: Tables of a recipe that say where files were, not what was done.
_OF_THIS_MACHINE = ("run", "samples", "loggers", "exporters")


def model_card(
    run: Path, document: Mapping[str, Any], outcome: Outcome, *, name: str, adapter: bool, how_to_load: str
) -> str:
    """Return the README.md of a result; it holds no place of this machine, no secret and no text of the data.

    ``run`` is the run folder, ``document`` the resolved recipe, ``name`` what the result is called; ``adapter`` says
    that it is loaded onto its base model; ``how_to_load`` is Python, in which paths are already names.
    """
    document = mask_data(document)
    base = document["model"].get("name")
    environment, report = _read(run / "environment.json"), _read(run / "data_report.json")
    versions = {package: each for package, each in environment.get("packages", {}).items() if each}
    plugins = {
        f"{plugin['distribution']} {plugin['version']}"
        for plugin in environment.get("plugins", ())
        if plugin.get("distribution") not in (None, "dpotrain")
    }
    recipe = {table: _without_places(document[table]) for table in document if table not in _OF_THIS_MACHINE}
    steps = f"{outcome.steps} steps"
    if outcome.final_step not in (None, outcome.steps):
        steps += f", of which step {outcome.final_step} is this one, the best evaluation"
    if isinstance(base, str) and not _on_hub(base):
        how_to_load = how_to_load.replace(base, Path(base).name)
    parts = [
        _metadata(base, document, adapter),
        f"# {name}",
        f"{'An adapter for' if adapter else 'Trained from'} {_named(base)} on preference pairs, with "
        f"the loss `{document['loss']['use']}`, by dpotrain {versions.get('dpotrain', '')}.".replace(
            " .", "."
        ),
        "## How to use it",
        f"```python\n{how_to_load}\n```" if how_to_load else "",
        "## Data",
        *_data(document["data"], report),
        "## Result",
        f"{steps}. Held-out pairs, before and after:"
        if outcome.final_evaluation
        else f"{steps}; no pairs were held out.",
        *_evaluation(outcome, report),
        "The reward of an answer is beta times the log of how much likelier the model makes it than the reference "
        "does. That the chosen reward falls below zero is normal.",
        "## Hyperparameters",
        _hyperparameters(document),
        f"The whole recipe:\n\n```toml\n{tomli_w.dumps(recipe).strip()}\n```",
        "## Versions",
        ", ".join([f"{package} {each}" for package, each in versions.items()] + sorted(plugins)) + ".",
    ]
    return mask("\n\n".join(part for part in parts if part) + "\n")


def _metadata(base: Any, document: Mapping[str, Any], adapter: bool) -> str:
    """Return the head that the hub reads, YAML; values are written as JSON, which YAML includes."""
    data: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "dpotrain", *(["lora"] if document.get("adapter", {}).get("use") == "lora" else [])],
    }
    if document["loss"]["use"] not in data["tags"]:
        data["tags"].append(document["loss"]["use"])
    if _on_hub(base):
        data["base_model"] = base
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    if on_hub := [source["name"] for source in _sources(document["data"]) if _on_hub(source.get("name"))]:
        data["datasets"] = list(dict.fromkeys(on_hub))
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in data.items()), "---"])


def _on_hub(name: Any) -> bool:
    """Whether a name can be one on the hub and is none of a file or folder here."""
    if not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    return not Path(name).exists()


def _named(base: Any) -> str:
    """Return the base's name; of a folder on this machine no more than its own."""
    if not isinstance(base, str):
        return "a model"
    return f"[{base}](https://huggingface.co/{base})" if _on_hub(base) else f"`{Path(base).name}`"


def _without_places(value: Any) -> Any:
    """Shorten absolute paths to their last name: they are nobody else's business, and lead nowhere elsewhere."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _sources(table: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the tables of the dataset sources: ``[data]`` itself, or those of a mixture."""
    tables: Sequence[Mapping[str, Any]] = table.get("sources") or [table]
    return [each.get("source", each) for each in tables]


def _data(table: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    named = []
    for source in _sources(table):
        name = source.get("name")
        named.append(
            f"[{name}](https://huggingface.co/datasets/{name})" if _on_hub(name) else f"`{source['use']}`"
        )
    yield ", ".join(named)
    lines = [
        f"- {label}: {of['of_an_epoch']} pairs of an epoch, from {of['pairs']}"
        for label, of in report.get("mixture", {}).items()
    ]
    for split, of_split in report.get("splits", {}).items():
        dropped = {reason: entry["count"] for reason, entry in of_split.get("dropped", {}).items()}
        less = "".join(f", {count} dropped: {reason}" for reason, count in dropped.items())
        lines.append(f"- {split}: {of_split['pairs_kept']} pairs of {of_split['rows_read']} rows{less}")
    yield "\n".join(lines)


def _evaluation(outcome: Outcome, report: Mapping[str, Any]) -> Iterator[str]:
    first, last = outcome.first_evaluation, outcome.final_evaluation
    pairs = last.get("pairs") or report.get("pairs", {}).get("evaluation") or 0
    rows = [
        f"| {name} | {write(first[name])} | {write(last[name])} |"
        for name, write in _SHOWN.items()
        if name in first and name in last
    ]
    if rows:
        yield "\n".join(["| metric | before | after |", "| --- | --- | --- |", *rows])
    if pairs and "rewards/accuracies" in last:
        bounds = interval(*wilson(last["rewards/accuracies"], pairs))
        yield f"Accuracy is the share of {pairs:,.0f} pairs; its 95 % interval after training is {bounds} (Wilson)."


def _hyperparameters(document: Mapping[str, Any]) -> str:
    rows = []
    for key in _HYPERPARAMETERS:
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            rows.append(f"| `{key}` | {_without_places(value)} |")
    return "\n".join(["| key | value |", "| --- | --- |", *rows])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
