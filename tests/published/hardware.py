"""What ``dpotrain plan`` says that a published recipe needs, as its header has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpotrain import load_recipe
from dpotrain.core.errors import RecipeError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import PreparedData, prepare_data
from dpotrain.run.planning.changes import GIGABYTE, SIZES
from dpotrain.run.planning.description import describe
from dpotrain.run.planning.devices import Asked, links_of
from dpotrain.run.planning.layouts import Layouts
from dpotrain.run.planning.plan import Plan, make_plan
from dpotrain.run.planning.target import target_of

#: What makes a recipe that trains all weights smaller. Frozen weights lose nothing in bfloat16, the dtype on the hub.
SMALLER_OPTIMIZER = ("optimizer.use=adamw-8bit",)
LORA = ("adapter.use=lora", "model.dtype=bfloat16")
QLORA = (*LORA, "quantizer.use=bnb-4bit")
CHANGES = (SMALLER_OPTIMIZER, LORA, QLORA)
#: The GPUs, in GB, of which a recipe that no single one is enough for names the number.
SEVERAL = 80
#: What each header has, as the words before a paragraph's first colon name it.
PARTS = ("source", "outcome", "hardware", "differs")

_BEGIN = "# Hardware, by `dpotrain plan`: "
_PARAGRAPH = re.compile(rf"^{re.escape(_BEGIN)}.*?(?=^#$)", re.MULTILINE | re.DOTALL)
_HEADS = re.compile("Source|Published outcome|Hardware|What differs")
_ELSEWHERE = re.compile(r"(?:what|see) ([\w.]+\.toml)")
_AS_IT_IS = re.compile(rf"one GPU of (\d+) GB|more than {SIZES[-1]} GB on one GPU, or (\d+) GPUs of (\d+) GB")
_WIDTH = 118


def prepared(recipe: Path, overrides: Sequence[str]) -> PreparedData:
    loaded = load_recipe(recipe, overrides)
    return prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter())


def planned(recipe: Path, overrides: Sequence[str], data: PreparedData) -> Plan:
    """Plan for the largest GPU; ``gpus.as_is`` is the smallest that would do. No changes to the recipe are tried."""

    def no_changes(more: Sequence[str]) -> object:
        raise RecipeError("as it is")

    return make_plan(load_recipe(recipe, overrides), data, SIZES[-1] * GIGABYTE, no_changes)  # type: ignore[arg-type]


def several(recipe: Path, overrides: Sequence[str], data: PreparedData) -> int:
    """Return the smallest power of two of GPUs on which the run fits, in the layout that it chooses."""
    loaded, target = load_recipe(recipe, overrides), target_of(SEVERAL * GIGABYTE)
    described = describe(loaded, data, target.kind)
    count = 2
    while True:
        layouts = Layouts(loaded, data, described, target, count, links_of(Asked(count), target), None)
        if layouts.need(layouts.choose().layout).enough:
            return count
        count *= 2


def as_it_is(recipe: Path, overrides: Sequence[str], data: PreparedData, least: int | None) -> str:
    """Return the beginning of a header's sentence; ``least`` is the smallest GPU that would do, in GB."""
    if least is not None:
        return f"one GPU of {least} GB"
    return f"more than {SIZES[-1]} GB on one GPU, or {several(recipe, overrides, data)} GPUs of {SEVERAL} GB"


def sentence(recipe: Path, overrides: Sequence[str], data: PreparedData, least: int | None) -> str:
    """Return the header's sentence: the smallest GPU as it is, and with changes that make it smaller."""
    text = as_it_is(recipe, overrides, data, least)
    of = "of" if least is not None else "one of"
    for changes in CHANGES if load_recipe(recipe).adapter is None else ():
        gpus = planned(recipe, [*overrides, *changes], data).gpus
        if gpus is not None and gpus.as_is is not None and (least is None or gpus.as_is < least):
            least = gpus.as_is
            text += f"; {of} {least} GB with {' '.join(f'--set {change}' for change in changes)}"
            of = "of"
    return f"{text}."


def _parts(recipe: Path) -> Iterator[tuple[str, str]]:
    for paragraph in recipe.read_text(encoding="utf-8").partition("\n\n")[0].split("\n#\n"):
        head, _, body = " ".join(paragraph.replace("\n#", " ").removeprefix("#").split()).partition(": ")
        if _HEADS.match(head):
            yield from ((part, body) for part in PARTS if part in head.lower())


def part(recipe: Path, name: str) -> str:
    """Return what a header says of one of :data:`PARTS`, in the recipe that it points to.

    Raises:
        KeyError: one of them has no such part.
        FileNotFoundError: there is no such recipe.
    """
    text = dict(_parts(recipe))[name]
    elsewhere = _ELSEWHERE.match(text)
    return text if elsewhere is None else part(recipe.parent / elsewhere[1], name)


def written(recipe: Path) -> str | None:
    """Return the sentence in a recipe's header, on one line; None where it has none."""
    found = _PARAGRAPH.search(recipe.read_text(encoding="utf-8"))
    return None if found is None else " ".join(found[0].replace("\n#", " ").split())[len(_BEGIN) :]


def in_the_guide(recipe: Path) -> str:
    """Return what the table in recipes/README.md says: the GPUs for the recipe as it is, by its header."""
    found = _AS_IT_IS.match(text := part(recipe, "hardware"))
    assert found is not None, text
    one, count, size = found.groups()
    return f"{one} GB" if one else f"{count} of {size} GB"


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
