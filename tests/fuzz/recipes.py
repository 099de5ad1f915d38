"""Mutations of the recipes in ``recipes/``: as documents, as bytes, and by ``--set``."""

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import strategies as st

from dpotrain.core.errors import DpotrainError
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.document import dump_recipe
from dpotrain.recipe.files import read_layers
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.overrides import override_layer
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.schema import recipe_schema
from tests.fuzz.junk import ANYTHING, DEEP, LEAVES, TEXTS, damage, holder, misspelt, mutate, places

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))

#: Tables whose keys are the data's or the chat template's, not the recipe's.
FREE = (("data", "columns"), ("data", "name"), ("data", "template_arguments"))

EXTENDS = st.sampled_from(
    [
        "recipe.toml", "other.toml", "missing.toml", "recipe", "", ".", "..", "/", "~nobody/x", "a\0b",
        "x" * 300, 5, ["a"],
    ]
)  # fmt: skip
JUNK = ANYTHING | DEEP | EXTENDS | st.dates() | st.times() | st.datetimes()


@dataclass(frozen=True, slots=True)
class Document:
    """A recipe, and the unknown key that was put into it."""

    recipe: dict[str, Any]
    unknown: str = ""


def whole(path: Path) -> dict[str, Any]:
    """Return a recipe with what it extends."""
    document: dict[str, Any] = {}
    for _, layer in read_layers(path):
        for key, value in layer.items():
            inside = document.get(key)
            document[key] = (
                {**inside, **value} if isinstance(inside, dict) and isinstance(value, dict) else value
            )
    return document


def with_every_key() -> dict[str, Any]:
    """Return a recipe that says all defaults."""
    document = copy.deepcopy(load_recipe(RECIPES[0].with_name("quickstart.toml")).document)
    document["data"]["columns"] = {"prompt": "prompt"}
    return {"requires": ["dpotrain>=0.0.1; python_version > '3'"], "block": ["liger"], **document}


DOCUMENTS_THERE = [*map(whole, RECIPES), with_every_key()]
BYTES_THERE = [path.read_bytes() for path in RECIPES]


def as_toml(value: Any) -> Any:
    """Return a value as TOML can hold it."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode()
    if isinstance(value, Mapping):
        return {as_toml(key): as_toml(item) for key, item in value.items()}
    return [as_toml(item) for item in value] if isinstance(value, list | tuple) else value


@st.composite
def documents(draw: st.DrawFn) -> Document:
    recipe = draw(st.sampled_from(DOCUMENTS_THERE))
    for _ in range(draw(st.integers(1, 3))):
        recipe = mutate(draw, recipe, JUNK)
        if not isinstance(recipe, dict):
            recipe = {"recipe": recipe}
    if draw(st.integers(0, 9)) == 0:
        recipe = {**recipe, "extends": draw(EXTENDS)}
    return Document(as_toml(recipe))


@st.composite
def with_an_unknown_key(draw: st.DrawFn) -> Document:
    """A recipe in order but for one key that there is not, wherever a key can be."""
    recipe = copy.deepcopy(draw(st.sampled_from(DOCUMENTS_THERE)))
    tables = [(), *(place for place in places(recipe) if isinstance(holder(recipe, (*place, "")), dict))]
    table = draw(st.sampled_from([place for place in tables if place[:2] not in FREE]))
    inside = holder(recipe, (*table, ""))
    known = draw(st.sampled_from(sorted(KNOWN)))
    key = as_toml(draw(TEXTS | st.just(misspelt(draw, known))))
    if key in KNOWN or key in inside:
        key = f"{key[:40]}_{len(inside)}"
    inside[key] = as_toml(draw(JUNK))
    return Document(recipe, unknown=key)


LINES = st.sampled_from(
    [b"\0", b"\xff", b'"""', b"'", b"[", b"]", b"[[loggers]]\n", b"[run]\n", b"=", b"\n", b"\r", b"\xef\xbb\xbf", b"#",
     "é = 1\n".encode(), b"a.b.c = 1\n", b"[a.b]\n", b"x = " + b"[" * 3000 + b"\n", b"x = " + b"9" * 5000 + b"\n",
     b"x = 0x" + b"f" * 6000 + b"\n", b".".join([b"a"] * 3000) + b" = 1\n", b"[" + b".".join([b"a"] * 3000) + b"]\n",
     b"x = 2026-13-45\n", b"x = 1e999\n", b'"\\u0000" = 1\n', b'extends = "recipe.toml"\n', b'"' + b"q" * 9000 + b"\n"]
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(BYTES_THERE))
    for _ in range(draw(st.integers(1, 3))):
        text = damage(draw, text, LINES | st.binary(max_size=6))
    return text


ODD_KEYS = st.sampled_from(["{}.0", "{}.x", "9" * 5000, '"{}"', '"a\\q"', "a." * 3000 + "a", "", "="])
ODD_VALUES = st.sampled_from(["", "[", "{", '"', "[" * 3000, "9" * 5000, "0x" + "f" * 6000, "a\udc80"])


@st.composite
def overrides(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A recipe in order, and what ``--set`` is given: often what is there already, or nearly."""
    recipe = draw(st.sampled_from(DOCUMENTS_THERE))
    there = [place for place in places(recipe) if all(re.fullmatch(r"[\w-]+", str(part)) for part in place)]
    said = []
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(there))
        key = ".".join(map(str, place))
        value = written(draw(st.just(holder(recipe, place)[place[-1]]) | st.integers(0, 9)))
        match draw(st.integers(0, 7)):
            case 0:
                key = misspelt(draw, key)
            case 1:
                key = draw(ODD_KEYS).format(key)
            case 2:
                key = draw(TEXTS)
            case 3 | 4:
                value = draw(TEXTS | LEAVES.map(str) | JUNK.map(written) | ODD_VALUES)
        said.append(f"{key}={value}")
    return recipe, said


def written(value: Any) -> str:
    return tomli_w.dumps({"x": as_toml(value)}).partition("=")[2].strip()


def _known() -> Iterator[str]:
    def keys(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema.get("properties", {})
        for inner in (
            schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
        ):
            yield from keys(inner)

    yield from keys(recipe_schema(PluginManager.from_entry_points()))


#: What there is to be known: options of every component, keys of every table.
KNOWN = frozenset(_known())
DOCUMENTS = documents()
UNKNOWN_KEYS = with_an_unknown_key()
TEXTS_OF_FILES = texts()
OVERRIDES = overrides()


class _Loading:
    """Loads recipes in the working directory, in which two files can extend each other."""

    def __init__(self, folder: Path) -> None:
        self.plugins = PluginManager.from_entry_points()
        self.file = Path("recipe.toml")
        Path("other.toml").write_text('extends = "recipe.toml"\n')

    def load(self, content: bytes, said: Sequence[str] = (), unknown: str = "") -> str:
        self.file.write_bytes(content)
        try:
            recipe = load_recipe(self.file, said, plugins=self.plugins)
        except DpotrainError as error:
            text, kind = str(error), type(error).__name__
        else:
            assert not unknown, f"{unknown!r} was accepted in silence"
            every_key_is_known(tomllib.loads(content.decode()))
            every_key_is_known(override_layer(said)[1])
            self.comes_back(recipe)
            return "accepted"
        check_message(text, ("recipe.toml", "other.toml", "--set"))
        assert not unknown or json.dumps(unknown, ensure_ascii=False)[1:40].rstrip('"') in text, text
        return kind

    def comes_back(self, recipe: Recipe) -> None:
        Path("again.toml").write_text(dump_recipe(recipe), encoding="utf-8")
        again = load_recipe("again.toml", plugins=self.plugins)
        assert same(again.document, recipe.document)


class OfDocuments(_Loading):
    """Takes a :class:`Document`."""

    def __call__(self, case: Document) -> str:
        return self.load(tomli_w.dumps(case.recipe).encode(), unknown=case.unknown)


class OfTexts(_Loading):
    """Takes a file's bytes."""

    def __call__(self, case: bytes) -> str:
        return self.load(case)


class OfOverrides(_Loading):
    """Takes a recipe and what ``--set`` was given."""

    def __call__(self, case: tuple[dict[str, Any], list[str]]) -> str:
        recipe, said = case
        return self.load(tomli_w.dumps(as_toml(recipe)).encode(), said)


def every_key_is_known(document: dict[str, Any]) -> None:
    for place in places(document):
        free = any(place[: len(table)] == table for table in FREE)
        assert free or isinstance(place[-1], int) or place[-1].isdecimal() or place[-1] in KNOWN, place


def check_message(text: str, somewhere: tuple[str, ...]) -> None:
    """Assert that an error is for a person: few lines, none endless, which name a place and blame no plugin."""
    assert text.strip()
    assert len(text.splitlines()) <= 60, text
    assert max(map(len, text.splitlines())) <= 2000, text
    assert "Traceback" not in text
    assert " raised " not in text, text
    assert any(place in text for place in somewhere), text


def same(one: Any, two: Any) -> bool:
    """Whether plain data is equal, one that is not a number being equal to another."""
    return repr(one) == repr(two)
