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


def refusal(owner) -> str:
    with pytest.raises(PluginError) as caught:
        implementations(owner, "made")
    return str(caught.value)


def test_a_misspelt_hook_is_refused_with_the_nearest_name():
    assert refusal(module(dpotrain_step_end=hookimpl(lambda run: None))) == (
        'made: there is no hook "dpotrain_step_end"; did you mean "dpotrain_step_ended"?'
    )


def test_a_function_that_looks_like_a_hook_is_refused_without_hookimpl():
    def dpotrain_losses():
        return []

    assert "dpotrain_losses lacks @hookimpl" in refusal(module(dpotrain_losses=dpotrain_losses))


def test_a_function_with_the_prefix_that_is_no_hook_is_refused():
    def dpotrain_looses():
        return []

    text = refusal(module(dpotrain_looses=dpotrain_looses))
    assert 'did you mean "dpotrain_losses"?' in text
    assert "names that begin with dpotrain_ are reserved for hooks" in text


def test_a_misspelt_specname_is_refused():
    assert 'no hook "dpotrain_loss"' in refusal(module(mine=hookimpl(specname="dpotrain_loss")(lambda: [])))


def test_an_argument_that_the_hook_does_not_have_is_refused():
    text = refusal(module(dpotrain_step_ended=hookimpl(lambda run, stepp: None)))
    assert "stepp" in text
    assert len(text.splitlines()) == 1


def test_wrappers_are_refused():
    def around(run):
        yield

    text = refusal(module(dpotrain_run_started=hookimpl(wrapper=True)(around)))
    assert "dpotrain_run_started is a wrapper" in text


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
