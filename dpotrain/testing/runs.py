"""A whole run in seconds, from a few lines of TOML."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpotrain.core.errors import PluginError
from dpotrain.core.records import Outcome
from dpotrain.plugin.describe.tracing import Call, trace
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing.tiny import are_examples, build_tiny_model, write_pairs

#: What a recipe of :func:`run_recipe` starts from; its own tables override these.
_BASE = """\
seed = 1
run.output_dir = {output_dir}
run.cache_dir = false
model.use = "transformers"
model.name = {model}
model.dtype = "float32"
data.use = "hf-datasets"
data.name = {data}
data.eval_fraction = 0.25
data.max_length = 128
loss.use = "dpo"
training.steps = 4
training.pairs_per_step = 4
training.precision = "fp32"
optimizer.lr = 1e-3
logging.every = 1
"""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of :func:`run_recipe` and what it left."""

    outcome: Outcome
    metrics: list[dict[str, Any]]
    """The lines of ``metrics.jsonl``."""
    output: str
    """What a person saw, as plain lines."""
    calls: list[Call]
    """Every call of a selected component (but its mathematics, in a loss) or active plugin, in order."""

    @property
    def train(self) -> list[dict[str, Any]]:
        """The train records, one a step."""
        return [record for record in self.metrics if record["kind"] == "train"]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The eval records: before training, after it, and whenever the recipe evaluates."""
        return [record for record in self.metrics if record["kind"] == "eval"]


def run_recipe(
    recipe: str,
    folder: Path,
    *,
    model: Path | None = None,
    data: Path | None = None,
    plugins: Sequence[object] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resume: bool = False,
) -> FinishedRun:
    """Run a recipe on a tiny model for a few steps, as ``dpotrain run`` would.

    Args:
        recipe: TOML that is laid over a small recipe: all weights of the tiny model, four steps of four pairs,
            float32, a quarter of the pairs held out. It may be empty; it says what the test is about.
        folder: where ``recipe.toml`` and the run folder ``run`` go; a second run with ``resume`` needs the same one.
        model: folder of the model; made in ``folder`` unless given.
        data: file of the pairs; :func:`example_pairs` unless given, which are trained on as plain text
            (``data.format = "standard"``) unless the recipe has a format or a source of its own.
        plugins: modules or objects with hooks, besides the plugins that are installed. Run events of those that offer
            no component are always called.
        overrides: as ``--set`` takes them.
        resume: go on with the run in ``folder``.

    Raises:
        DpotrainError: as the run raises it.
        PluginError: one of ``plugins`` is refused.
    """
    from dpotrain import train
    from dpotrain.recipe.load import load_recipe
    from dpotrain.ui.plain import PlainReporter

    path = write_recipe(recipe, folder, model=model, data=data)
    seen = io.StringIO()
    manager = PluginManager.from_entry_points(extra=plugins)
    if broken := [plugin for plugin in manager.failed if plugin.given]:
        raise PluginError("\n".join(f"{plugin.label} failed: {plugin.reason}" for plugin in broken))
    loaded = load_recipe(path, overrides, plugins=manager)
    calls: list[Call] = []
    traced = replace(loaded, plugins=trace(loaded, loaded.plugins, calls.append))
    outcome = train(traced, resume=resume, reporter=PlainReporter(seen))
    lines = (outcome.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return FinishedRun(outcome, [json.loads(line) for line in lines], seen.getvalue(), calls)


def write_recipe(recipe: str, folder: Path, *, model: Path | None = None, data: Path | None = None) -> Path:
    """Write the recipe that :func:`run_recipe` runs, and what it needs, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        model = folder / "model"
        if not model.exists():
            build_tiny_model(model)
    if data is None:
        data = write_pairs(folder / "pairs.jsonl")
    places = {"output_dir": folder / "run", "model": model, "data": data}
    base = _BASE.format(**{name: json.dumps(str(path)) for name, path in places.items()})
    if _reads(recipe, data):
        base += 'data.format = "standard"\n'
    (folder / "base.toml").write_text(base, encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(f'extends = "base.toml"\n{recipe}\n', encoding="utf-8")
    return path


def _reads(recipe: str, data: Path) -> bool:
    """Whether a recipe takes the example pairs from the file, and says nothing of their format."""
    try:
        own = tomllib.loads(recipe).get("data", {})
    except tomllib.TOMLDecodeError:
        return False  # reported as it is read
    if not isinstance(own, Mapping) or own.keys() & {"use", "name", "format"}:
        return False
    return are_examples(data)
