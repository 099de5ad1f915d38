"""``dpotrain plugins new``: a complete package for a component of any kind or a verb, whose tests pass as generated.

Templates are folders of text files below ``templates``: ``package`` for what every package has, and one for each kind,
called as it is. In names and contents ``{{…}}`` stands for the words of :func:`_words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dpotrain.core.errors import RecipeError
from dpotrain.core.version import __version__
from dpotrain.plugin.runtime.interface import INTERFACE
from dpotrain.scaffold.kinds import Kind

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OVER = re.compile(r"\{\{\w+\}\}")
#: What template files end with, so that no tool takes them for code.
_SUFFIX = ".txt"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was written."""

    folder: Path
    commands: tuple[str, ...]
    """What installs it, tests it and shows it at work, to be given in its folder."""


def generate(name: str, kind: Kind, parent: Path) -> Package:
    """Write the package ``dpotrain-NAME`` into ``parent``.

    Raises:
        RecipeError: the name is no name, something installed has it already, or the folder is there.
    """
    name = name.removeprefix("dpotrain-")
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f'; what about "{near}"?' if _NAME.fullmatch(near) else ""
        raise RecipeError(f'"{name}" is no name for a plugin: small letters, digits and hyphens{hint}')
    clash = kind.clash(name)
    if clash is not None:
        raise RecipeError(f"{clash}; choose another name")
    folder = parent / f"dpotrain-{name}"
    if folder.exists():
        raise RecipeError(f"{folder} is there already; choose another name, or another --folder")
    words = _words(name, kind)
    templates = files("dpotrain.scaffold") / "templates"
    texts: dict[str, str] = {}
    for source in ("package", kind.name.replace(" ", "_")):
        texts |= _filled(templates / source, words)
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return Package(folder, ('pip install -e ".[test]"', "python -m pytest", *kind.commands(name)))


def _words(name: str, kind: Kind) -> dict[str, str]:
    """Return what stands for what in the templates."""
    a_kind = f"{'an' if kind.name[0] in 'aeiou' else 'a'} {kind.name}"
    module = "dpotrain_" + name.replace("-", "_")
    return {
        "name": name,
        "module": module,
        "class": "".join(part.capitalize() for part in name.split("-")) + kind.ending,
        "a_kind": a_kind,
        "A_kind": a_kind.capitalize(),
        "version": __version__,
        "interface": str(INTERFACE),
        "commands": "\n".join(f"$ {command}" for command in kind.commands(name)),
        **kind.words(name, module),
    }


def _filled(folder: Traversable, words: dict[str, str], inside: str = "") -> dict[str, str]:
    """Return the files of a template folder by their paths in the package, filled in."""
    texts: dict[str, str] = {}
    for entry in folder.iterdir():
        path = f"{inside}{_fill(entry.name, words)}"
        if entry.is_dir():
            texts |= _filled(entry, words, f"{path}/")
        else:
            texts[path.removesuffix(_SUFFIX)] = _fill(entry.read_text(encoding="utf-8"), words)
    return texts


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    left = _LEFT_OVER.search(text)
    if left is not None:
        raise ValueError(f"a template has {left[0]}, which stands for nothing")
    return text
