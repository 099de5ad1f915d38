"""For people who write plugins: a tiny real model, a few pairs, a whole run in seconds, and suites of tests to inherit.

In a plugin's ``tests/conftest.py``::

    pytest_plugins = ["dpotrain.testing"]

and in a test::

    from dpotrain.testing import LossConformance

    class TestMine(LossConformance):
        component = MyLoss

    def test_my_loss_trains(dpotrain_run):
        run = dpotrain_run('loss = { use = "my-loss", my_option = 3 }')
        assert run.outcome.status == "finished"
        assert run.train[-1]["loss"] < run.train[0]["loss"]

Nothing here touches the network. An installed plugin is found through its entry point; ``dpotrain_run(…, plugins=[…])``
is for modules and objects with hooks that are not installed.
"""

from __future__ import annotations

from dpotrain.testing import conformance
from dpotrain.testing.conformance import *  # noqa: F403  # what it lists in __all__
from dpotrain.testing.fixtures import RunRecipe, dpotrain_data, dpotrain_model, dpotrain_run
from dpotrain.testing.runs import FinishedRun, run_recipe, write_recipe
from dpotrain.testing.tiny import build_tiny_model, example_pairs, write_pairs

__all__ = [
    "FinishedRun",
    "RunRecipe",
    "build_tiny_model",
    "dpotrain_data",
    "dpotrain_model",
    "dpotrain_run",
    "example_pairs",
    "run_recipe",
    "write_pairs",
    "write_recipe",
]
__all__ += conformance.__all__
