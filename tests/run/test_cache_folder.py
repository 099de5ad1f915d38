"""Where the cache is: what the recipe says, or what the system's convention is."""

from pathlib import Path

import pytest

from dpotrain.core.paths import cache_folder
from dpotrain.recipe.sections.run import RunSection


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [
        ("/somewhere", "/somewhere/dpotrain"),
        ("", "/home/me/.cache/dpotrain"),
        ("rel", "/home/me/.cache/dpotrain"),
    ],
)
def test_auto_follows_the_convention(monkeypatch, xdg, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder("auto") == Path(expected)


def test_a_recipe_names_another_folder_or_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(Path("~/cache")) == Path("/home/me/cache")
    assert cache_folder(Path("here")) == Path("here")
    assert cache_folder(None) is None


def test_a_folder_may_be_called_auto():
    assert RunSection(output_dir=Path("x")).cache_dir == "auto"
    assert RunSection(output_dir=Path("x"), cache_dir="./auto").cache_dir == Path("auto")
    assert RunSection(output_dir=Path("x"), cache_dir=None).cache_dir is None
