"""Command lines of other trainers, converted."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from dpotrain.convert.convert import Converted, convert
from dpotrain.recipe.load import load_recipe

TRL_COMMAND = "python dpo.py --model_name_or_path gpt2 --dataset_name pairs.jsonl --output_dir runs/x"


#: The smallest configuration of each tool.
BASES: dict[str, dict[str, Any]] = {
    "trl": {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"},
    "axolotl": {"rl": "dpo", "base_model": "m", "learning_rate": 1e-5, "datasets": [{"path": "d"}]},
    "llama-factory": {"stage": "dpo", "model_name_or_path": "m", "dataset": "d", "output_dir": "o"},
    "ms-swift": {"rlhf_type": "dpo", "model": "m", "dataset": "d"},
}


def converted(words: str, **arguments) -> Converted:
    """Convert a command line."""
    return convert(shlex.split(words), **arguments)


def document(words: str, **arguments) -> dict:
    """Return the recipe of a command line, loaded."""
    made = converted(words, **arguments)
    assert made.fault == ""
    Path("made.toml").write_text(made.text)
    return load_recipe("made.toml").document


def made(tool: str, keys: dict[str, Any]) -> Converted:
    """Translate a tool's smallest configuration with further keys."""
    Path("c.yaml").write_text(yaml.safe_dump(BASES[tool] | keys))
    return convert(["c.yaml"], tool=tool)
