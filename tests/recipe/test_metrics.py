"""``[[metrics]]``: what their numbers are called, and what is refused."""

import pytest

from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.plugin.runtime.metric_names import logged_names
from tests.plugin.fakes import EVERYTHING, FakeMetric, Offers
from tests.recipe.writing import MINIMAL, load, refused

ONE = '[[metrics]]\nuse = "fake-metric"\n'


def test_numbers_stand_behind_the_name_of_the_plugin(plugins):
    recipe = load(MINIMAL + ONE + "scale = 2\n", plugins=plugins)
    (metric,) = recipe.metrics
    assert metric.options.scale == 2.0
    assert logged_names(metric, recipe.plugins) == ("fakes/one",)
    assert recipe.document["metrics"] == [{"use": "fake-metric", "scale": 2.0}]
    assert metric in recipe.components


def test_two_numbers_of_one_name_are_refused(plugins):
    assert refused(MINIMAL + ONE + ONE, plugins=plugins) == (
        "r.toml: 1 error\n  [metrics.1]: a second metric would be logged as fakes/one; keep one of the two"
    )


@pytest.mark.parametrize("measures", [(), "one", ("with space",), ["one"]])
def test_measures_that_are_no_names_are_refused(measures):
    odd = type("Odd", (FakeMetric,), {"name": "odd", "measures": measures})
    manager = PluginManager.of(Offers("p", *EVERYTHING, odd))
    (broken,) = manager.failed
    assert 'metric "odd": measures is ' in broken.reason
    assert "it must be a tuple of names" in broken.reason


def test_a_plugin_that_is_called_like_the_engines_numbers_is_refused():
    manager = PluginManager.of(Offers("rewards", *EVERYTHING))
    assert '[metrics.0]: plugin "rewards" has the name of a prefix that records use' in refused(
        MINIMAL + ONE, plugins=manager
    )
