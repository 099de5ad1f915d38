"""Arguments that several commands take, and what a shell completes them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem


class RecipePath(click.Path):
    """A recipe: completed with TOML files here and one folder further down."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the recipes that begin so; any file where there is none."""
        return _paths(incomplete, _is_recipe) or super().shell_complete(ctx, param, incomplete)


class RunPath(click.Path):
    """A run folder: completed with those here and one folder further down."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the run folders that begin so; any folder where there is none."""
        return _paths(incomplete, _is_run) or [CompletionItem(incomplete, type="dir")]


def recipes_here() -> list[Path]:
    """Return the recipes in the working directory and in ``recipes``."""
    return [path for folder in (Path(), Path("recipes")) for path in _entries(folder, "") if _is_recipe(path)]


def _paths(incomplete: str, fits: Callable[[Path], bool]) -> list[CompletionItem]:
    """Return what fits and begins with a text, in its folder and in the folders of that."""
    head, slash, start = incomplete.rpartition("/")
    found = []
    for path in _entries(Path(f"{head}{slash}"), start):
        if fits(path):
            found.append(path)
        elif path.is_dir():
            found += [inner for inner in _entries(path, "") if fits(inner)]
    return [CompletionItem(path.as_posix()) for path in found]


def _entries(folder: Path, start: str) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return
    yield from (folder / name for name in names if name.startswith(start) and not name.startswith("."))


def _is_recipe(path: Path) -> bool:
    return path.suffix == ".toml" and path.name != "pyproject.toml" and path.is_file()


def _is_run(path: Path) -> bool:
    return (path / "metrics.jsonl").is_file() and (path / "recipe.toml").is_file()
