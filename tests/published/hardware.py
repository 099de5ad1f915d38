"""What ``dpotrain plan`` says that a published recipe needs, as its header has it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import PreparedData, prepare_data
from dpotrain.run.planning.changes import GIGABYTE, SIZES
from dpotrain.run.planning.plan import Plan, make_plan

#: What makes a recipe that trains all weights smaller. Frozen weights lose nothing in bfloat16, the dtype on the hub.
SMALLER_OPTIMIZER = ("optimizer.use=adamw-8bit",)
LORA = ("adapter.use=lora", "model.dtype=bfloat16")
QLORA = (*LORA, "quantizer.use=bnb-4bit")
CHANGES = (SMALLER_OPTIMIZER, LORA, QLORA)

_BEGIN = "# Hardware, by `dpotrain plan`: "
_PARAGRAPH = re.compile(rf"^{re.escape(_BEGIN)}.*?(?=^#$)", re.MULTILINE | re.DOTALL)
_WIDTH = 118


def prepared(recipe: Path, overrides: Sequence[str]) -> PreparedData:
    loaded = load_recipe(recipe, overrides)
    return prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())


def planned(recipe: Path, overrides: Sequence[str], data: PreparedData) -> Plan:
    """Plan for the largest GPU; ``gpus.as_is`` is the smallest that would do. No changes to the recipe are tried."""

    def no_changes(more: Sequence[str]) -> object:
        raise RecipeError("as it is")

    return make_plan(load_recipe(recipe, overrides), data, SIZES[-1] * GIGABYTE, no_changes)  # type: ignore[arg-type]


def sentence(found: Sequence[tuple[Sequence[str], int | None]]) -> str:
    """Return the header's sentence for the smallest GPU as it is, and with changes that make it smaller."""
    (_, least), *others = found
    text = f"more than {SIZES[-1]} GB as it is" if least is None else f"one GPU of {least} GB"
    for changes, size in others:
        if size is not None and (least is None or size < least):
            least = size
            text += f"; of {size} GB with {' '.join(f'--set {change}' for change in changes)}"
    return f"{text}."


def written(recipe: Path) -> str | None:
    """Return the sentence in a recipe's header, on one line; None where it has none."""
    found = _PARAGRAPH.search(recipe.read_text(encoding="utf-8"))
    return None if found is None else " ".join(found[0].replace("\n#", " ").split())[len(_BEGIN) :]


def in_the_guide(recipe: Path) -> str:
    """Return what the table in recipes/README.md says: the GPU for the recipe as it is, by its or its base's header."""
    while (text := written(recipe)) is None:
        recipe = recipe.parent / tomllib.loads(recipe.read_text(encoding="utf-8"))["extends"]
    found = re.search(r"(?:more than )?\d+ GB", text)
    assert found is not None, text
    return found[0]


def cell(recipe: Path) -> re.Pattern[str]:
    """Return what finds the GPU in a recipe's row of the table."""
    return re.compile(rf"(?<=\(published/{re.escape(recipe.name)}\) )(\|[^|]*\|[^|]*\| )([^|]*)(?= \|)")


def write(recipe: Path, text: str) -> None:
    """Put a sentence into a recipe's header, in lines of its width."""
    lines, line = [], _BEGIN.rstrip()
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = "#"
        line += f" {word}"
    whole = "\n".join([*lines, line, ""])
    before = recipe.read_text(encoding="utf-8")
    recipe.write_text(_PARAGRAPH.sub(lambda _: whole, before), encoding="utf-8")
