"""The model card: what was trained, on what, how, with which result and which versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from dpotrain.plugin.api import Finished

#: The metrics of an evaluation that a card has room for.
_SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")

#: Tables of a recipe that say where files were, not what was done.
_OF_THIS_MACHINE = ("run", "samples", "loggers", "exporters")


def card(run: Finished, source: Path, repo: str) -> str:
    """Return the README.md of a repository that holds ``source``, a folder of the run."""
    document, outcome = run.recipe.document, run.outcome
    adapter = (source / "adapter_config.json").is_file()
    base = document["model"].get("name")
    environment, report = _read(run.folder / "environment.json"), _read(run.folder / "data_report.json")
    versions = {name: version for name, version in environment.get("packages", {}).items() if version}
    plugins = {
        f"{plugin['distribution']} {plugin['version']}"
        for plugin in environment.get("plugins", ())
        if plugin.get("distribution") not in (None, "dpotrain")
    }
    recipe = {name: _without_places(document[name]) for name in document if name not in _OF_THIS_MACHINE}
    steps = f"{outcome.steps} steps"
    if outcome.final_step not in (None, outcome.steps):
        steps += f", of which step {outcome.final_step} is this one, the best evaluation"
    parts = [
        _metadata(base, document, adapter),
        f"# {repo.rpartition('/')[2]}",
        f"{'An adapter for' if adapter else 'Trained from'} {_named(base)} on preference pairs, with "
        f"the loss `{run.recipe.loss.name}`, by dpotrain {versions.get('dpotrain', '')}.".replace(" .", "."),
        "## Data",
        *_data(document["data"], report),
        "## Result",
        f"{steps}. Held-out pairs, before and after:"
        if outcome.final_evaluation
        else f"{steps}; no pairs were held out.",
        *_evaluation(outcome.first_evaluation, outcome.final_evaluation),
        "The reward of an answer is beta times the log of how much likelier the model makes it than the reference "
        "does. That the chosen reward falls below zero is normal.",
        "## Recipe",
        f"```toml\n{tomli_w.dumps(recipe).strip()}\n```",
        "## Versions",
        ", ".join([f"{name} {version}" for name, version in versions.items()] + sorted(plugins)) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(base: Any, document: Mapping[str, Any], adapter: bool) -> str:
    """Return the head that the hub reads, YAML; values are written as JSON, which YAML includes."""
    data: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "dpotrain", document["loss"]["use"]],
    }
    if _on_hub(base):
        data["base_model"] = base
    if _on_hub(document["data"].get("name")):
        data["datasets"] = [document["data"]["name"]]
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


def _data(table: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    name = table.get("name", table["use"])
    yield f"[{name}](https://huggingface.co/datasets/{name})" if _on_hub(name) else f"`{table['use']}`"
    lines = []
    for split, of_split in report.get("splits", {}).items():
        dropped = {reason: entry["count"] for reason, entry in of_split.get("dropped", {}).items()}
        less = "".join(f", {count} dropped: {reason}" for reason, count in dropped.items())
        lines.append(f"- {split}: {of_split['pairs_kept']} pairs of {of_split['rows_read']} rows{less}")
    yield "\n".join(lines)


def _evaluation(first: Mapping[str, float], last: Mapping[str, float]) -> Iterator[str]:
    shown = [name for name in _SHOWN if name in first and name in last]
    rows = [f"| {name} | {first[name]:.4f} | {last[name]:.4f} |" for name in shown]
    if rows:
        yield "\n".join(["| metric | before | after |", "| --- | --- | --- |", *rows])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
