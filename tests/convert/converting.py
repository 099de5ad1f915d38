"""Command lines of other trainers, converted."""

import shlex
from pathlib import Path

from dpotrain.convert.convert import Converted, convert
from dpotrain.recipe.load import load_recipe

TRL_COMMAND = "python dpo.py --model_name_or_path gpt2 --dataset_name pairs.jsonl --output_dir runs/x"


def converted(words: str, **arguments) -> Converted:
    """Convert a command line."""
    return convert(shlex.split(words), **arguments)


def document(words: str, **arguments) -> dict:
    """Return the recipe of a command line, loaded."""
    made = converted(words, **arguments)
    assert made.fault == ""
    Path("made.toml").write_text(made.text)
    return load_recipe("made.toml").document
