"""Who is named for an error, by its traceback alone."""

import inspect
import json
import types

import pytest
from pydantic import BaseModel

from dpotrain.core.errors import DataError, PluginError
from dpotrain.plugin.runtime.failures import named, naming_components
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import FakeAdapter, FakeLoader, FakeLogger, FakeLoss, FakeSource, Offers
from tests.plugin.test_events import recipe


class Calling(FakeLoader):
    name = "calling"

    def load_model(self, request):
        return request()

    @property
    def size(self):
        raise IndexError


def chosen(*kinds, **components):
    plugins = PluginManager.of(Offers("p", Calling, FakeLoss, FakeSource, FakeLogger, *kinds))
    return recipe(plugins)


def raised(function) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


def blamed(error: BaseException, of) -> BaseException:
    return named(error, of, of.plugins)


def text(function, of=None) -> str:
    told = blamed(raised(function), of or chosen())
    return str(told) if isinstance(told, PluginError) else repr(told)


def loader() -> Calling:
    return Calling(Calling.Options(name="m"))


def fail():
    raise KeyError("k")


def test_the_outermost_method_of_a_component_is_what_the_core_had_called():
    def inner():
        return loader().load_model(fail)

    assert text(lambda: loader().load_model(inner)).startswith(
        'model loader "calling" of plugin "p" raised in load_model: KeyError: \'k\' ('
    )


def test_a_property_is_a_phase_too():
    assert '"calling" of plugin "p" raised in size: IndexError (' in text(lambda: loader().size)


def test_a_method_under_another_name_is_known_by_the_one_that_was_called():
    class Aliased(Calling):
        name = "aliased"
        fingerprint = lambda self, source=None: fail()  # noqa: E731

    made = Aliased(Aliased.Options(name="m"))
    assert '"aliased" of plugin "p" raised in fingerprint: KeyError' in text(
        made.fingerprint, chosen(Aliased)
    )


def test_a_function_that_only_takes_a_component_is_no_phase():
    def helper(part):
        fail()

    assert text(lambda: helper(loader())) == "KeyError('k')"


def test_notes_follow():
    error = raised(lambda: loader().load_model(fail))
    error.add_note("It was Tuesday.")
    assert str(blamed(error, chosen())).endswith("\nIt was Tuesday.")


def test_code_of_a_plugin_that_is_no_components_method_is_known_by_its_module():
    module = types.ModuleType("dpotrain_foo")
    module.dpotrain_losses = Offers("p", FakeLoss).dpotrain_losses
    deeper = types.ModuleType("dpotrain_foo.layers")
    exec("def forward():\n    raise ZeroDivisionError", deeper.__dict__)
    of = recipe(PluginManager.of(module))
    assert text(deeper.forward, of).startswith('plugin "dpotrain_foo" raised in forward: ZeroDivisionError')
    other = types.ModuleType("dpotrain_foobar")
    exec("def forward():\n    raise ZeroDivisionError", other.__dict__)
    assert text(other.forward, of) == "ZeroDivisionError()"


def test_a_component_that_no_plugin_offers_is_the_cores_own():
    """All weights are trained by an adapter of the core."""

    class Own(FakeAdapter):
        name = "own"

        def how_to_load(self, folder):
            fail()

    assert text(lambda: Own(Own.Options()).how_to_load(None)) == "KeyError('k')"


def test_an_error_of_nobodys_a_message_for_people_and_an_interrupt_stay_what_they_are():
    def refuse():
        raise DataError("the file is empty")

    def interrupt():
        raise KeyboardInterrupt

    for function in (fail, lambda: loader().load_model(refuse), lambda: loader().load_model(interrupt)):
        error = raised(function)
        assert blamed(error, chosen()) is error


def test_as_a_context_it_raises_from_the_error():
    with (
        pytest.raises(PluginError, match="raised in load_model") as caught,
        naming_components(chosen(), chosen().plugins),
    ):
        loader().load_model(fail)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError), naming_components(chosen(), chosen().plugins):
        fail()


def test_the_place_is_the_plugin_s_own_where_a_library_raised():
    class Reading(FakeLoader):
        name = "reading"

        def load_model(self, request):
            return json.loads("{")

    made = Reading(Reading.Options(name="m"))
    line = inspect.getsourcelines(Reading.load_model)[1] + 1
    assert text(lambda: made.load_model(None), chosen(Reading)).endswith(f"(char 1) ({__file__}:{line})")


def test_a_validation_error_has_all_its_lines_and_no_value():
    class Inner(BaseModel):
        x: int
        y: int

    said = text(lambda: loader().load_model(lambda: Inner(x="hunter2")))
    assert said.splitlines()[1:] == [
        "  x: Input should be a valid integer, unable to parse string as an integer",
        "  y: Field required",
    ]
    assert said.startswith(
        'model loader "calling" of plugin "p" raised in load_model: ValidationError of Inner ('
    )
    assert __file__ in said
    assert "hunter2" not in said
