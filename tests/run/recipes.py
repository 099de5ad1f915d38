"""Small real runs: a tiny checkpoint, a file of pairs, a recipe over both."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from dpotrain.core.reporter import SilentReporter
from tests.support import tiny_checkpoint

WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "other", "animals", "watch"),
    *("great", "interest", "bake", "bread", "flour", "water", "salt", "hour", "capital", "France", "Paris"),
    *("help", "question", "today", "numbers", "commas", "dots", "brackets"),
]

RECIPE = """\
seed = 7
[run]
output_dir = "{folder}/run"
[model]
use = "transformers"
name = "{folder}/model"
dtype = "float32"
[data]
use = "hf-datasets"
name = "{folder}/pairs.jsonl"
format = "standard"
eval_fraction = 0.2
max_length = 96
[loss]
use = "dpo"
beta = 0.1
[training]
epochs = 2
pairs_per_step = 5
precision = "fp32"
[optimizer]
use = "adamw"
lr = 1e-3
[schedule]
use = "linear"
warmup_fraction = 0.2
[logging]
every = 1
"""

LORA = """
[adapter]
use = "lora"
rank = 4
alpha = 8
"""


def sentence(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))


def write_pairs(path: Path, count: int = 23, seed: int = 0) -> Path:
    """Pairs of words; lengths vary by an order of magnitude, so that cutting them differently means something."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"{number} {sentence(draw, 1, 12)}",
            "chosen": f" {sentence(draw, 1, 16)} yes",
            "rejected": f" {sentence(draw, 1, 16)} no",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def project(folder: Path, *, adapter: bool = False, kind: str = "llama", **model: Any) -> Path:
    """Fill a folder with model, pairs and recipe; return the recipe's path."""
    tiny_checkpoint(folder / "model", kind, **model)
    write_pairs(folder / "pairs.jsonl")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder) + (LORA if adapter else ""), encoding="utf-8")
    return recipe


class Recording(SilentReporter):
    """Keeps what a person would have seen, and sends this process a signal as some steps are shown."""

    def __init__(self, stop_at: int = 0) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.facts: dict[str, str] = {}
        self.outcome: Any = None
        self.stop_at = stop_at

    def started(self, title: str, info: dict[str, str], total_steps: int = 0) -> None:
        self.facts = info

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, record: Any) -> None:
        if record.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def finished(self, outcome: Any) -> None:
        self.outcome = outcome


def run(
    recipe: Path,
    *overrides: str,
    into: Path | None = None,
    plugins: Any = None,
    resume: bool = False,
    reporter: Any = None,
) -> Any:
    """Train as a recipe says, in silence, ``into`` a folder of its own where one is given; return the outcome."""
    from dpotrain import load_recipe, train

    place = [] if into is None else [f"run.output_dir={str(into)!r}"]
    recipe = load_recipe(recipe, [*place, *overrides], plugins=plugins)
    return train(recipe, resume=resume, reporter=reporter or SilentReporter())


def weights(folder: Path) -> bytes:
    """Return the weights of a result, as they are in its file."""
    (file,) = folder.glob("*.safetensors")
    return file.read_bytes()


def records(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run)]
