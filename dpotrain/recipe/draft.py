"""A recipe that is being written: keys with a comment each, as a TOML file for people."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpotrain.core.errors import DpotrainError
from dpotrain.recipe.load import load_recipe
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.catalogue import TABLES

#: Columns of a written recipe, and where comments beside keys begin unless the key is longer.
WIDTH = 110
_COMMENT_AT = 40


@dataclass(slots=True)
class Draft:
    """The text of a recipe.

    Tables come in the order of the recipe reference, keys in the order of :meth:`set`, but ``use`` first.
    """

    heading: str = ""
    """What the file is, at its top; paragraphs are wrapped, indented lines stay."""
    _tables: dict[str, dict[str, str]] = field(default_factory=dict)
    """Lines by table and key; what is no key has a number."""

    def set(self, place: str, value: Any, comment: str = "") -> None:
        """Write a key, in place of what was written of it before.

        ``place`` is ``"seed"``, ``"optimizer.lr"``, or ``"loggers.0.project"`` of a listed table, which may be one of
        an option: ``"loss.terms.0.use"``.
        """
        table, _, key = place.rpartition(".")
        lines = self._tables.setdefault(table, {})
        line = _line(f"{key} = {toml(value)}", comment)
        self._tables[table] = (
            {key: line} | {k: v for k, v in lines.items() if k != key}
            if key == "use"
            else lines | {key: line}
        )

    def remark(self, table: str, text: str) -> None:
        """Write a comment of its own at this place of a table; "" is the top of the file."""
        lines = self._tables.setdefault(table, {})
        lines[f"#{len(lines)}"] = _wrapped(text)

    def suggest(self, place: str, value: Any, comment: str) -> None:
        """Write a key that is commented out."""
        table, _, key = place.rpartition(".")
        self._tables.setdefault(table, {})[f"# {key}"] = _line(f"# {key} = {toml(value)}", comment)

    def text(self) -> str:
        """Return the TOML text."""
        parts = [_wrapped(self.heading)] if self.heading else []
        parts += ["\n".join(self._tables[""].values())] if "" in self._tables else []
        for table in sorted(filter(None, self._tables), key=_order):
            names = [part for part in table.split(".") if not part.isdigit()]
            head = f"[[{'.'.join(names)}]]" if table[-1].isdigit() else f"[{table}]"
            lines = list(self._tables[table].values())
            suggested = all(line.startswith("#") for line in lines)
            parts.append("\n".join([f"# {head}" if suggested else head, *lines]))
        return "\n\n".join(parts) + "\n"


def check_draft(text: str, name: str) -> Recipe:
    """Return the recipe that a text is, as if it were in the file ``name`` of the working directory.

    Raises what :func:`load_recipe` raises, in which the file is called ``name``.
    """
    with TemporaryDirectory(prefix="dpotrain-") as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        try:
            return load_recipe(path)
        except DpotrainError as error:
            raise type(error)(str(error).replace(str(path), name)) from error


def toml(value: Any) -> str:
    """Return a value as TOML, on one line unless it is a text of several."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str):
        if "\n" in value and "'''" not in value:
            return f"'''\n{value}'''"
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def toml_key(key: str) -> str:
    """Return a key as TOML: bare where that is allowed."""
    bare = key.isascii() and key.replace("-", "_").replace("_", "a").isalnum()
    return key if bare else json.dumps(key)


def _number(value: float) -> str:
    """Return a number as people write it: ``5e-7``, ``0.1``."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def _line(key: str, comment: str) -> str:
    if not comment:
        return key
    first, newline, rest = key.partition("\n")
    if newline:
        return f"{_wrapped(comment)}\n{first}\n{rest}"
    line = f"{key:<{_COMMENT_AT - 1}} # {comment}"
    if len(line) <= WIDTH:
        return line
    start = max(_COMMENT_AT, len(key) + 1)
    if start > WIDTH // 2:
        return f"{_wrapped(comment)}\n{key}"
    head, *more = textwrap.wrap(comment, WIDTH - start - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{key:<{start - 1}} # {head}", *(f"{'':<{start - 1}} # {line}" for line in more)])


def _wrapped(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if line.startswith(" ") or not line:
            lines.append(f"# {line}".rstrip())
        else:
            lines += textwrap.wrap(
                line, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def _order(table: str) -> tuple[int, int]:
    name, *inside = table.split(".")
    return TABLES.index(name), int(inside[-1]) + 1 if inside else 0
