"""The version of the plugin interface: it cannot change by accident, and one that does not fit is explained."""

import sys
import types
import warnings

import pytest

from dpotrain import __version__, hookimpl
from dpotrain.plugin.api import Loss, hookspecs
from dpotrain.plugin.runtime import hooks, interface
from dpotrain.plugin.runtime.interface import INTERFACE, OLDEST, DeprecatedHook
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import LOSS_MODULE, FakeLoss, Offers, install
from tests.plugin.interface import interface_text

MYPO = LOSS_MODULE.format(name="mypo")


def info(name: str):
    return next(info for info in PluginManager.from_entry_points().infos() if info.name == name)


def test_the_interface_is_what_its_version_says(snapshot):
    """Whatever is added raises INTERFACE, whatever is taken away or changed raises OLDEST as well.

    A new version is a new file; those of released versions stay as they are.
    """
    snapshot(f"interface-{INTERFACE}.txt", interface_text())


def test_every_version_that_is_taken_is_no_newer_than_this_one():
    assert 1 <= OLDEST <= INTERFACE


@pytest.mark.parametrize("line", ["dpotrain_interface = 1", "dpotrain_interface: int = 1  # since 0.1"])
def test_a_plugin_that_fits_says_what_it_was_written_for(site, line):
    install(site, "dpotrain-mypo", "0.3", mypo=f"{MYPO}\n{line}\n")
    assert (info("mypo").interface, info("mypo").status) == (1, "unused")


def test_the_built_in_plugins_say_it_as_an_example():
    """They double as examples, so each says the version that it comes with."""
    built_in = [info for info in PluginManager.from_entry_points().infos() if info.distribution == "dpotrain"]
    assert {info.name: info.interface for info in built_in} == {info.name: INTERFACE for info in built_in}
    assert built_in


def test_a_plugin_that_says_nothing_is_taken_to_fit(site):
    install(site, "dpotrain-mypo", "0.3", mypo=MYPO)
    assert (info("mypo").interface, info("mypo").status) == (None, "unused")


def test_one_for_a_later_interface_is_explained_and_not_even_imported(site):
    source = "dpotrain_interface = 99\nfrom dpotrain.plugin.api import Sampler\n"
    install(site, "dpotrain-late", "2.0", late=source)
    late = info("late")
    assert (late.status, late.interface) == ("failed", 99)
    assert late.reason == (
        f"it was written for plugin interface 99, and dpotrain {__version__} has {INTERFACE}\n"
        "upgrade dpotrain (pip install --upgrade dpotrain), or install an older dpotrain-late"
    )
    assert "dpotrain_late_late" not in sys.modules


def test_one_for_an_interface_that_is_gone_is_explained(site, monkeypatch):
    monkeypatch.setattr(interface, "OLDEST", 2)
    monkeypatch.setattr(interface, "INTERFACE", 3)
    install(site, "dpotrain-old", "0.1", old=f"dpotrain_interface = 1\n{MYPO}")
    assert info("old").reason == (
        f"it was written for plugin interface 1, and dpotrain {__version__} takes 2 and newer\n"
        "look for a newer dpotrain-old, or install an older dpotrain"
    )


def test_an_object_says_it_by_an_attribute():
    late = Offers("late", FakeLoss)
    late.dpotrain_interface = 99
    (plugin,) = PluginManager.of(late).failed
    assert "it was written for plugin interface 99" in plugin.reason
    late.dpotrain_interface = "1.0"
    (plugin,) = PluginManager.of(late).failed
    assert plugin.reason == f"dpotrain_interface is a whole number, such as {INTERFACE}, not '1.0'"


def test_a_hook_that_is_going_away_still_works_and_is_noted(monkeypatch):
    text = "dpotrain_step_ended is going away in interface 3; implement dpotrain_evaluated"
    monkeypatch.setitem(hookspecs.dpotrain_step_ended.dpotrain_spec, "warn_on_impl", DeprecatedHook(text))
    monkeypatch.setattr(hooks, "_registry", hooks._registry.__wrapped__)  # reads the specifications anew

    class Listening(FakeLoss):
        @hookimpl
        def dpotrain_step_ended(self, step):
            pass

    module = types.ModuleType("listening")
    module.dpotrain_losses = hookimpl(lambda: [Listening])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = PluginManager.of(module, Offers("other"))
    listening, other = manager.infos()
    assert (listening.status, listening.notes) == ("unused", [text])
    assert other.notes == []
    assert manager.find(Loss, "fake-dpo") is Listening
