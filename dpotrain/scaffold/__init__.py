"""``dpotrain plugins new``: a complete package for a component or a command, whose tests pass as generated.

Templates are folders of text files below ``templates``: ``package`` for what every package has, and one for each kind,
called as it is. In names and contents ``{{…}}`` stands for the words of :func:`_words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dpotrain.core.atomic import folder_aside
from dpotrain.core.errors import RecipeError
from dpotrain.core.version import __version__
from dpotrain.plugin.runtime.interface import INTERFACE
from dpotrain.scaffold.kinds import Kind
from dpotrain.scaffold.names import check_name, class_of, distribution_of, module_of

_LEFT_OVER = re.compile(r"\{\{\w+\}\}")
#: Suffix of template files, so that no tool reads them as code.
_SUFFIX = ".txt"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was written."""

    folder: Path
    next_steps: tuple[str, ...]
    """Shell commands that install, test and run it, to be given in its folder."""


def generate(name: str, kind: Kind, parent: Path) -> Package:
    """Write the package ``dpotrain-NAME`` into ``parent``, whole or not at all.

    Raises:
        RecipeError: the name is invalid, something installed has it already, the folder exists, or it cannot be
            written.
    """
    name = name.removeprefix("dpotrain-")
    check_name(name, kind)
    folder = parent / distribution_of(name)
    if folder.exists():
        raise RecipeError(f"{folder} exists already; choose another name, or another --folder")
    words = _words(name, kind)
    templates = files("dpotrain.scaffold") / "templates"
    texts: dict[str, str] = {}
    for source in ("package", kind.name.replace(" ", "_")):
        texts |= _filled(templates / source, words)
    try:
        with folder_aside(folder) as partial:
            for path, text in texts.items():
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{folder} cannot be written: {error.strerror}") from None
    return Package(folder, ('pip install -e ".[test]"', "python -m pytest", *kind.try_out(name)))


def _words(name: str, kind: Kind) -> dict[str, str]:
    """Return the values of the template words."""
    a_kind = f"{'an' if kind.name[0] in 'aeiou' else 'a'} {kind.name}"
    module = module_of(name)
    return {
        "name": name,
        "module": module,
        "class": class_of(name, kind.base),
        "a_kind": a_kind,
        "A_kind": a_kind.capitalize(),
        "version": __version__,
        "interface": str(INTERFACE),
        "try_out": "\n".join(f"$ {line}" for line in kind.try_out(name)),
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
        raise ValueError(f"a template has the unknown word {left[0]}")
    return text
