"""Implementations that no hook would call are refused, with the nearest hook."""

import types

import pytest

from dpotrain import hookimpl
from dpotrain.core.errors import PluginError
from dpotrain.plugin.runtime.hooks import implementations


def module(**functions):
    made = types.ModuleType("made")
    vars(made).update(functions)
    return made


def around(run):
    yield


def unmarked():
    return []


NEAREST = 'made: there is no hook "dpotrain_step_end"; did you mean "dpotrain_step_ended"?'
STEPP = "made: dpotrain_step_ended has no argument stepp; it can take run, step"
RESERVED = "names that begin with dpotrain_ are reserved for hooks"


@pytest.mark.parametrize(
    ("functions", "texts"),
    [
        ({"dpotrain_step_end": hookimpl(lambda run: None)}, [NEAREST]),
        ({"dpotrain_losses": unmarked}, ["dpotrain_losses lacks @hookimpl"]),
        ({"dpotrain_looses": unmarked}, ['did you mean "dpotrain_losses"?', RESERVED]),
        ({"mine": hookimpl(specname="dpotrain_loss")(lambda: [])}, ['no hook "dpotrain_loss"']),
        ({"dpotrain_step_ended": hookimpl(lambda run, stepp: None)}, [STEPP]),
        ({"dpotrain_run_started": hookimpl(wrapper=True)(around)}, ["dpotrain_run_started is a wrapper"]),
    ],
    ids=["misspelt", "unmarked", "no hook", "misspelt specname", "another argument", "wrapper"],
)
def test_what_no_hook_would_call_is_refused(functions, texts):
    with pytest.raises(PluginError) as caught:
        implementations(module(**functions), "made")
    assert all(text in str(caught.value) for text in texts)


def test_an_implementation_may_take_fewer_arguments_and_another_name():
    found = implementations(module(mine=hookimpl(specname="dpotrain_step_ended")(lambda step: step)), "made")
    assert list(found) == ["dpotrain_step_ended"]
    assert found["dpotrain_step_ended"].argnames == ("step",)


def test_properties_of_an_object_are_not_run_in_search_of_hooks():
    class Odd:
        @property
        def costly(self):
            raise AssertionError("was run")

        @hookimpl
        def dpotrain_run_started(self, run):
            pass

    assert list(implementations(Odd(), "odd")) == ["dpotrain_run_started"]
