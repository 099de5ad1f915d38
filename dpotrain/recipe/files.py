"""Reading a recipe file and those that it extends."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from dpotrain.core.errors import RecipeError, did_you_mean, short
from dpotrain.core.paths import user_path
from dpotrain.recipe.values import check_values

EXTENDS = "extends"

#: Endings of what other trainers are configured by.
_OTHER_FORMATS = frozenset({".yaml", ".yml", ".json", ".sh"})
_WIDEST = 100  # characters that are shown of a line that is not TOML


def read_layers(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (file, document) of a recipe and all that it extends, the base first, without ``extends``.

    Raises RecipeError for a file that is missing or not TOML, and for files that extend each other in a circle.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    seen: list[Path] = []
    file, by = path, ""
    while True:
        try:
            identity = file.resolve()
        except (OSError, RuntimeError) as error:  # symbolic links in a circle
            raise RecipeError(f"{short(str(file))} cannot be read: {short(str(error))}") from None
        if identity in seen:
            circle = [str(_short(each)) for each in [*seen[seen.index(identity) :], identity]]
            raise RecipeError(f"{path}: files that extend each other: {' -> '.join(circle)}")
        seen.append(identity)
        document = _read(file, by)
        layers.insert(0, (str(file), document))
        if EXTENDS not in document:
            return layers
        base = document.pop(EXTENDS)
        if not isinstance(base, str) or not base:
            raise RecipeError(
                f'{file}: extends: expected the path of one recipe, as in extends = "base.toml"'
            )
        file, by = file.parent / user_path(base), f"{file}: extends: "


def _read(path: Path, by: str) -> dict[str, Any]:
    if path.suffix.lower() in _OTHER_FORMATS and path.is_file():
        raise RecipeError(
            f"{by}{short(str(path))} is not a recipe: recipes are TOML files\n"
            f"if it is a configuration of TRL, axolotl, LLaMA-Factory or ms-swift: dpotrain convert {short(str(path))}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{by}there is no recipe {short(str(path))}{_nearest_file(path)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{by}{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{by}{short(str(path))} cannot be read: {error.strerror}") from None
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOML's own, and Python's for a number of thousands of digits
        raise RecipeError(_syntax_error(path, text, str(error))) from None
    except RecursionError:
        raise RecipeError(f"{path}: tables and lists are nested too deeply") from None
    check_values(document, str(path))
    return document


def _syntax_error(path: Path, text: str, message: str) -> str:
    """Return a message that names the line and shows it."""
    where = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    lines = text.splitlines()
    if where is None or int(where[1]) > len(lines):
        return f"{path}: not TOML: {message}"
    line, column = int(where[1]), int(where[2])
    shown = lines[line - 1].rstrip()
    if len(shown) > _WIDEST:  # only what is around the error
        start = max(0, min(column - 1, len(shown)) - _WIDEST // 2)
        shown, column = shown[start : start + _WIDEST], column - start
    mark = " " * (min(column, len(shown) + 1) - 1) + "^"
    return f"{path}:{line}:{column}: not TOML: {message[: where.start()]}\n  {shown}\n  {mark}"


def _nearest_file(path: Path) -> str:
    """Return a hint: the nearest name of a recipe in the folder, else what the folder holds."""
    if not path.parent.is_dir():
        return f"; there is no folder {short(str(path.parent))} either"
    near_by = sorted(
        file.name for file in path.parent.glob("*.toml") if file.is_file() and file.name != "pyproject.toml"
    )
    if hint := did_you_mean(f"{path.stem}.toml", near_by):
        return hint
    shown = ", ".join(near_by[:5]) + ", …" * (len(near_by) > 5)
    return f"; {path.parent} holds {shown}" if near_by else ""


def _short(path: Path) -> Path:
    """Return the path relative to the working directory where it is inside it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
