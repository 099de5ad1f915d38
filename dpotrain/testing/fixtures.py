"""The pytest fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.testing.installed import Project
from dpotrain.testing.runs import FinishedRun, run_recipe
from dpotrain.testing.tiny import build_tiny_model, write_pairs

#: What the fixture :func:`dpotrain_run` is.
RunRecipe: TypeAlias = Callable[..., FinishedRun]


@pytest.fixture(scope="session")
def dpotrain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and its tokenizer (:func:`build_tiny_model`); shared, so do not write to it."""
    return build_tiny_model(tmp_path_factory.mktemp("dpotrain") / "model")


@pytest.fixture(scope="session")
def dpotrain_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a JSON Lines file of :func:`example_pairs`; shared, so do not write to it."""
    return write_pairs(tmp_path_factory.mktemp("dpotrain") / "pairs.jsonl")


@pytest.fixture
def dpotrain_run(
    dpotrain_model: Path, dpotrain_data: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> RunRecipe:
    """Return what runs a recipe: :func:`run_recipe` with the model, the data and a fresh folder filled in.

    ``dpotrain_run(recipe="", **arguments)`` takes the same arguments, each of which may be given. A second call in the
    same test needs a ``folder`` of its own, or ``resume=True``. Where a recipe is wrong and the package under test is
    not installed, the error says that first.
    """

    def run(recipe: str = "", **options: Any) -> FinishedRun:
        given = {"folder": tmp_path, "model": dpotrain_model, "data": dpotrain_data} | options
        try:
            return run_recipe(recipe, **given)
        except RecipeError as error:
            project = Project.around(pytestconfig.rootpath)
            if project is None or not project.missing:
                raise
            raise RecipeError(f"{project.missing}\n{error}") from error

    return run
