"""Fixtures of the tests of the data."""

from functools import partial

import pytest

from tests.data.preparing import write_recipe


@pytest.fixture
def recipe(tmp_path):
    """Write splits as jsonl files and return what prepare_data uses of a recipe."""
    return partial(write_recipe, tmp_path)
