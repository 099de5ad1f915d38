"""Discovery, isolation, refusals and look-up."""

import subprocess
import sys
import types

import pytest
from pydantic import BaseModel, Field

from dpotrain import hookimpl
from dpotrain.core.errors import PluginError
from dpotrain.plugin.api import DatasetFormatter, DatasetSource, Logger, Loss
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.manager import PluginManager
from tests.plugin.fakes import (
    LOSS_MODULE,
    FakeFormatter,
    FakeLoader,
    FakeLogger,
    FakeLoss,
    FakeSource,
    Offers,
    install,
)


def info(manager: PluginManager, name: str):
    return next(info for info in manager.infos() if info.name == name)


def test_all_built_in_plugins_are_found_and_offer_every_kind():
    manager = PluginManager.from_entry_points()
    built_in = {plugin.name: plugin for plugin in manager.plugins if plugin.distribution == "dpotrain"}
    assert set(built_in) == {
        "transformers", "liger", "bitsandbytes", "torchao", "lora", "layers", "hf-datasets", "formatters", "losses",
        "optimizers", "schedules", "length", "tokens", "early-stopping", "merge", "hub", "wandb", "tensorboard",
        "mlflow", "trackio", "demo",
    }  # fmt: skip
    assert {plugin.name: plugin.reason for plugin in built_in.values() if plugin.failed} == {}
    assert all(manager.names(kind) for kind in CATALOGUES.values())


def test_plugins_are_loaded_beside_the_package_that_replaces_the_standard_library_s_reader():
    """MLflow imports it, and all plugins would be found and none of them loaded."""
    pytest.importorskip("importlib_metadata")
    code = (
        "import importlib_metadata\n"
        "from dpotrain.plugin.api import Loss\n"
        "from dpotrain.plugin.runtime.manager import PluginManager\n"
        "print(PluginManager.from_entry_points().find(Loss, 'dpo').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "dpo\n", done.stderr


def test_a_plugin_is_found_by_its_entry_point_with_its_provenance(site):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    found = info(PluginManager.from_entry_points(), "mypo")
    assert found.as_json() == {
        "name": "mypo",
        "offers": {"loss": ["mypo"]},
        "events": [],
        "distribution": "dpotrain-mypo",
        "version": "0.3",
        "file": str(site / "dpotrain_mypo_mypo.py"),
        "status": "unused",
        "reason": "",
        "interface": None,
        "notes": [],
        "kinds": {},
        "commands": [],
    }


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise ValueError('no')", "ValueError: no ({file}:1)"),
    ],
)
def test_a_plugin_that_fails_to_import_takes_nothing_down(site, source, reason):
    install(site, "dpotrain-broken", "1.0", broken=source)
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points()
    broken = info(manager, "broken")
    assert broken.status == "failed"
    assert broken.reason.startswith(reason.format(file=site / "dpotrain_broken_broken.py"))
    assert broken.distribution == "dpotrain-broken"
    assert broken.file == str(site / "dpotrain_broken_broken.py")
    assert manager.find(Loss, "mypo").name == "mypo"


def test_a_failed_plugin_is_named_where_a_component_is_not_found(site):
    install(site, "dpotrain-broken", "1.0", broken="import no_such_module_at_all")
    manager = PluginManager.from_entry_points()
    with pytest.raises(PluginError) as caught:
        manager.find(Loss, "mypo")
    assert 'plugin "broken" (dpotrain-broken 1.0), which may offer it, failed' in str(caught.value)
    assert "no_such_module_at_all" in str(caught.value)
    assert manager.warnings == [
        'plugin "broken" (dpotrain-broken 1.0) failed and is not used: ' + manager.failed[0].reason
    ]


def test_two_components_of_one_name_are_refused_and_both_distributions_named(site):
    install(site, "dpotrain-one", "1.0", one=LOSS_MODULE.format(name="mypo"))
    install(site, "dpotrain-two", "2.0", two=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points()
    with pytest.raises(PluginError) as caught:
        manager.find(Loss, "mypo")
    assert str(caught.value) == (
        'loss "mypo" is offered by plugin "one" (dpotrain-one 1.0) and plugin "two" (dpotrain-two 2.0); '
        'block = ["two"] leaves one of them out'
    )
    assert manager.duplicates_of(Loss) == [str(caught.value)]
    assert info(manager, "one").status == info(manager, "two").status == "failed"
    assert info(manager, "one").reason == str(caught.value)
    assert manager.blocking(["dpotrain-two"]).find(Loss, "mypo").__module__ == "dpotrain_one_one"


def test_one_class_offered_by_two_plugins_names_both():
    manager = PluginManager.of(Offers("one", FakeLoss), Offers("two", FakeLoss))
    assert 'plugin "one" and plugin "two"' in manager.duplicates_of(Loss)[0]


def test_one_name_may_be_used_by_two_kinds():
    class Same(FakeLogger):
        name = FakeLoss.name

    manager = PluginManager.of(Offers("both", FakeLoss, Same))
    assert manager.duplicates_of(Loss) == []
    assert manager.find(Logger, FakeLoss.name) is Same


@pytest.mark.parametrize("name", ["mypo", "dpotrain-mypo", "dpotrain_mypo", "DPOtrain.Mypo"])
def test_a_blocked_plugin_is_not_even_imported(site, name):
    install(site, "dpotrain-mypo", "0.3", mypo=LOSS_MODULE.format(name="mypo"))
    manager = PluginManager.from_entry_points(block=[name])
    blocked = info(manager, "mypo")
    assert (blocked.status, blocked.offers) == ("blocked", {})
    assert blocked.file == str(site / "dpotrain_mypo_mypo.py")
    assert "dpotrain_mypo_mypo" not in sys.modules
    with pytest.raises(
        PluginError, match=r'plugin "mypo" \(dpotrain-mypo 0.3\), which may offer it, is blocked'
    ):
        manager.find(Loss, "mypo")


def test_an_unknown_name_comes_with_the_nearest_one():
    manager = PluginManager.of(Offers("some", FakeLoss))
    with pytest.raises(PluginError, match=r'^there is no loss "fakedpo"; did you mean "fake-dpo"\?$'):
        manager.find(Loss, "fakedpo")
    with pytest.raises(PluginError, match=r'^there is no loss "zzz"; there is "fake-dpo"$'):
        manager.find(Loss, "zzz")
    with pytest.raises(PluginError, match="no plugin offers a logger"):
        manager.find(Logger, "wandb")


def test_modules_and_objects_can_be_registered_beside_what_is_installed():
    module = types.ModuleType("by_hand")
    module.dpotrain_losses = hookimpl(lambda: [FakeLoss])
    manager = PluginManager.from_entry_points(extra=[module, Offers("object", FakeLogger)])
    assert info(manager, "by_hand").offers == {"loss": ["fake-dpo"]}
    assert info(manager, "object").distribution is None
    assert manager.owner(FakeLoss).label == 'plugin "by_hand"'


def test_formatters_keep_the_order_in_which_they_are_offered():
    class Second(FakeFormatter):
        name = "a-second"

    manager = PluginManager.of(Offers("some", FakeFormatter, Second))
    assert manager.formatters() == [FakeFormatter, Second]


def reason(kind: type, *components, hook: str | None = None) -> str:
    """Return why a plugin that offers these is refused."""
    hook = hook or next(name for name, of in CATALOGUES.items() if of is kind)
    module = types.ModuleType("offers")
    setattr(module, hook, hookimpl(lambda: list(components)))
    plugin = PluginManager.of(module).plugins[0]
    assert plugin.failed
    assert plugin.components == ()
    return plugin.reason


def odd(base: type, **members: object) -> type:
    return type("Odd", (base,), members)


ABSTRACT = odd(Logger, name="half", log=lambda self, record: None)
MISSPELT = odd(FakeLogger, dpotrain_step_finished=hookimpl(lambda self, run: None))


@pytest.mark.parametrize(
    ("kind", "component", "text"),
    [
        (Loss, odd(Loss, __call__=FakeLoss.__call__), "Odd needs a name of letters"),
        (Loss, odd(FakeLoss, name="with space"), "'with space'"),
        (Logger, FakeLoss, "which is not a subclass of Logger"),
        (Loss, "dpo", "which is not a subclass of Loss"),
        (Logger, ABSTRACT, 'logger "half" lacks finish(), start()'),
        (DatasetFormatter, odd(FakeFormatter, name="auto"), "choose another name"),
        (Logger, MISSPELT, 'there is no hook "dpotrain_step_finished"'),
    ],
    ids=["no name", "bad name", "other kind", "no class", "abstract", "auto", "misspelt hook"],
)
def test_a_component_that_is_none_is_refused(kind, component, text):
    assert text in reason(kind, component)


@pytest.mark.parametrize(
    ("kind", "method", "text"),
    [
        (FakeLoss, lambda self: None, "__init__(self) is called as __init__(self, options)"),
        (FakeLoss, lambda self: None, "__call__(self) is called as __call__(self, scores)"),
        (
            FakeLogger,
            lambda self, record, more: None,
            "log(self, record, more) is called as log(self, record)",
        ),
        (FakeLoader, lambda self: "", "fingerprint(self) is called as fingerprint(self, source=None)"),
        (
            FakeLoader,
            lambda self, source: "",
            "fingerprint(self, source) is called as fingerprint(self, source=None)",
        ),
    ],
)
def test_a_method_that_could_not_be_called_is_refused_before_any_run(kind, method, text):
    name = method.__name__ = text.partition("(")[0]
    of = next(each for each in CATALOGUES.values() if issubclass(kind, each))
    assert reason(of, type("Odd", (kind,), {name: method})) == f'{kind.kind} "{kind.name}": {text}'


def test_a_method_may_take_more_where_the_core_gives_nothing():
    def log(self, record, *more, **options): ...

    def fingerprint(self, source="", more=1): ...

    manager = PluginManager.of(
        Offers(
            "p",
            type("A", (FakeLogger,), {"log": log}),
            type("B", (FakeLoader,), {"fingerprint": fingerprint}),
        )
    )
    assert not manager.failed


def test_an_option_without_description_is_refused():
    class Bare(FakeLoss):
        class Options(Loss.Options):
            gamma: float = 0.5

    assert 'loss "fake-dpo": option "gamma" has no description' in reason(Loss, Bare)


def test_options_that_are_not_ours_are_refused():
    class Foreign(FakeLoss):
        class Options(BaseModel):
            beta: float = Field(0.1, description="b")

    class Loose(FakeLoss):
        class Options(Loss.Options, extra="allow"):
            pass

    assert "must derive from Loss.Options, not from BaseModel" in reason(Loss, Foreign)
    assert 'extra="forbid"' in reason(Loss, Loose)


def test_an_option_called_use_or_like_a_core_key_of_data_is_refused():
    class Use(FakeLoss):
        class Options(Loss.Options):
            use: str = Field("x", description="u")

    class Limit(FakeSource):
        class Options(DatasetSource.Options):
            limit: int = Field(1, description="l")

    assert 'cannot be called "use"' in reason(Loss, Use)
    assert "is a key of [data] that dpotrain itself reads" in reason(DatasetSource, Limit)


def test_options_that_have_no_json_schema_are_refused():
    class Odd:
        pass

    class Opaque(FakeLoss):
        class Options(Loss.Options, arbitrary_types_allowed=True):
            odd: Odd | None = Field(None, description="o")

    assert "cannot be written in a recipe" in reason(Loss, Opaque)


@pytest.mark.parametrize("offer", [FakeLoss, None, "dpo"])
def test_a_catalogue_that_returns_no_list_is_refused(offer):
    module = types.ModuleType("offers")
    module.dpotrain_losses = hookimpl(lambda: offer)
    assert "must return a list of classes" in PluginManager.of(module).plugins[0].reason


def test_an_entry_point_that_names_a_class_is_refused():
    assert "names a class" in PluginManager.of(Offers).plugins[0].reason
