"""``dpotrain plugins new``: a complete package for one component of any kind, whose tests pass as generated.

Templates are folders of text files below ``templates``: ``package`` for what every package has, and one for each kind,
called like its class. In names and contents ``{{…}}`` stands for the words of :func:`_words`.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dpotrain import __version__
from dpotrain.errors import RecipeError
from dpotrain.plugin.components import CATALOGUES, Component
from dpotrain.plugin.interface import INTERFACE
from dpotrain.plugin.manager import PluginManager

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OVER = re.compile(r"\{\{\w+\}\}")
#: What template files end with, so that no tool takes them for code.
_SUFFIX = ".txt"


def kinds() -> dict[str, type[Component]]:
    """Return every kind that there is, by its name on the command line: ``model-loader``."""
    return {kind.kind.replace(" ", "-"): kind for kind in CATALOGUES.values()}


def generate(name: str, kind: type[Component], parent: Path) -> Path:
    """Write the package ``dpotrain-NAME`` into ``parent`` and return its folder.

    Raises:
        RecipeError: the name is no name, an installed plugin offers it already, or the folder is there.
    """
    name = name.removeprefix("dpotrain-")
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f'; what about "{near}"?' if _NAME.fullmatch(near) else ""
        raise RecipeError(f'"{name}" is no name for a plugin: small letters, digits and hyphens{hint}')
    plugins = PluginManager.from_entry_points()
    if name in plugins.names(kind):
        owner = plugins.owner(plugins.find(kind, name)).label
        raise RecipeError(f'{kind.kind} "{name}" is offered by {owner} already; choose another name')
    folder = parent / f"dpotrain-{name}"
    if folder.exists():
        raise RecipeError(f"{folder} is there already; choose another name, or another --folder")
    words = _words(name, kind)
    templates = files("dpotrain.scaffold") / "templates"
    texts: dict[str, str] = {}
    for source in ("package", _template(kind)):
        texts |= _filled(templates / source, words)
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def _template(kind: type[Component]) -> str:
    return kind.kind.replace(" ", "_")


def _words(name: str, kind: type[Component]) -> dict[str, str]:
    """Return what stands for what in the templates."""
    a_kind = f"{'an' if kind.kind[0] in 'aeiou' else 'a'} {kind.kind}"
    return {
        "name": name,
        "module": "dpotrain_" + name.replace("-", "_"),
        "class": "".join(part.capitalize() for part in name.split("-")) + kind.__name__,
        "kind": kind.kind,
        "a_kind": a_kind,
        "A_kind": a_kind.capitalize(),
        "version": __version__,
        "interface": str(INTERFACE),
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
