"""What tests of preparing data share: a recipe over small files, and what a person was shown."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

from dpotrain.data.prepare import PreparedData, prepare_data
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.data import DataSection
from dpotrain_plugins import formatters
from dpotrain_plugins.hf_datasets import HFDatasetsSource
from tests.data.tokenizers_for_tests import bpe
from tests.plugin.fakes import FakeLoss
from tests.run.recipes import Recording


class RecordingReporter(Recording):
    """Keeps the progress bars as well."""

    def __init__(self):
        super().__init__()
        self.phases = []

    def phase(self, name, total):
        self.phases.append([name, total, 0])
        return self._advancing(self.phases[-1])

    @contextmanager
    def _advancing(self, phase):
        def advance(count=1):
            phase[2] += count

        yield advance


class FewKeys(SimpleNamespace):
    """What reading data uses of a recipe."""

    data_sets = Recipe.data_sets

    def the(self, kind):
        return self.source


def write_recipe(folder, train, seed=42, formatter=None, **keys):
    """Write splits as jsonl files and return what prepare_data uses of a recipe over them."""
    splits = train if isinstance(train, dict) else {"train": train}
    names = {}
    for split, rows in splits.items():
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        names[split] = str(path)
    return FewKeys(
        seed=seed,
        data=DataSection(**keys),
        source=HFDatasetsSource(HFDatasetsSource.Options(name=names)),
        formatter=formatter,
        components=(FakeLoss(FakeLoss.Options()),),
        plugins=PluginManager.of(formatters),
    )


def row(number: int, prompt: str | None = None) -> dict:
    return {"prompt": prompt or f"question {number}", "chosen": f" yes {number}", "rejected": f" no {number}"}


def prepare(recipe, tokenizer=None, **options) -> tuple[PreparedData, RecordingReporter]:
    shown = RecordingReporter()
    return prepare_data(recipe, tokenizer or bpe(), shown, **options), shown


def everything(prepared: PreparedData) -> list:
    """Return all that a run gets of its data, as plain values that compare."""
    pairs = [prepared.train, *([] if prepared.evaluation is None else [prepared.evaluation])]
    columns = [
        [getattr(one, name).tobytes() for name in ("rows", "keys", "prompt_lengths", "chosen_lengths")]
        for one in pairs
    ]
    tokens = [[one[index].rejected.tolist() for index in range(len(one))] for one in pairs]
    return [
        columns,
        tokens,
        *(store.tokens.tobytes() for store in pairs[0].stores),
        prepared.report,
        list(prepared.report.as_json()["splits"]),
    ]
