"""Who hears a run event, in which order, and what happens when one of them raises."""

import dataclasses
import threading
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dpotrain import hookimpl
from dpotrain.core.errors import PluginError, RunError
from dpotrain.core.records import CheckpointRecord, Outcome, Record, Run, StepRecord
from dpotrain.core.reporter import Reporter, SilentReporter
from dpotrain.plugin.runtime.events import RunEvents
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.recipe import Recipe
from dpotrain.recipe.sections.run import LoggingSection
from tests.plugin.fakes import FakeLoader, FakeLogger, FakeLoss, FakeSource, Offers
from tests.run.recipes import Recording


def run(main: bool = True) -> Run:
    nothing: Any = None
    return Run(Path(), {}, nothing, nothing, nothing, 0, 10, 100, 10, is_main_process=main)


STEP = StepRecord(1, 10, 0.1, {}, 8, 100, 1.0)
EVALUATION = Record("eval", 0, {"loss": 0.7})
CHECKPOINT = CheckpointRecord(1, Path("x"))
OUTCOME = Outcome("finished", 10, Path(), None)


def recipe(plugins: PluginManager, loss: type = FakeLoss, loggers: tuple = (), **document) -> Recipe:
    nothing: Any = None
    fields = dict.fromkeys((field.name for field in dataclasses.fields(Recipe)), nothing)
    fields |= {
        "logging": LoggingSection(),
        "parts": {
            "model": (FakeLoader(FakeLoader.Options(name="m")),),
            "data": (FakeSource(FakeSource.Options(name="d")),),
            "loss": (loss(loss.Options()),),
            "loggers": tuple(logger(logger.Options()) for logger in loggers),
        },
        "plugins": plugins,
        "document": document,
    }
    return Recipe(**fields)


def events_of(chosen: Recipe, reporter: Reporter) -> RunEvents:
    return RunEvents(chosen, chosen.plugins, reporter, chosen.logging.patience)


def listening_module(name: str, heard: list, *components: type, error: Exception | None = None, **hooks):
    """Return a module that offers components and notes every run_started."""
    module = types.ModuleType(name)
    offers = Offers(name, *components)
    module.dpotrain_losses = hookimpl(lambda: offers.dpotrain_losses())
    module.dpotrain_loggers = hookimpl(lambda: offers.dpotrain_loggers())

    def started(run):
        heard.append(name)
        if error is not None:
            raise error

    module.started = hookimpl(specname="dpotrain_run_started", **hooks)(started)
    return module


def test_only_what_the_recipe_selected_hears_an_event():
    heard = []

    class Listening(FakeLoss):
        name = "listening"

        @hookimpl
        def dpotrain_run_started(self, run):
            heard.append("component")

    plugins = PluginManager.of(
        listening_module("selected", heard, Listening), listening_module("installed", heard, FakeLogger)
    )
    events_of(recipe(plugins, Listening), SilentReporter()).run_started(run())
    assert heard == ["selected", "component"]


def test_a_plugin_whose_distribution_is_required_hears_events():
    heard = []
    plugins = [
        dataclasses.replace(
            load_module(listening_module(name, heard)), given=False, distribution=f"dpotrain-{name}"
        )
        for name in ("wanted", "other")
    ]
    chosen = recipe(PluginManager(plugins), requires=["dpotrain_wanted>=0.1"])
    events_of(chosen, SilentReporter()).run_started(run())
    assert heard == ["wanted"]


def load_module(module):

    return PluginManager.of(module).plugins[0]


def test_every_event_reaches_its_hook_with_named_arguments_in_the_order_of_a_run():
    heard = []

    class Listening(FakeLoss):
        name = "listening"

        @hookimpl
        def dpotrain_run_started(self, run):
            heard.append(("started", run))

        @hookimpl
        def dpotrain_step_ended(self, step, run):
            heard.append(("step", run, step))

        @hookimpl
        def dpotrain_evaluated(self, run, evaluation):
            heard.append(("evaluated", run, evaluation))

        @hookimpl
        def dpotrain_checkpoint_saved(self, checkpoint):
            heard.append(("checkpoint", checkpoint))

        @hookimpl
        def dpotrain_run_finished(self, run, outcome):
            heard.append(("finished", run, outcome))

    events = events_of(recipe(PluginManager.of(Offers("p", Listening)), Listening), SilentReporter())
    this = run()
    events.run_started(this)
    events.evaluated(this, EVALUATION)
    events.step_ended(this, STEP)
    events.checkpoint_saved(this, CHECKPOINT)
    events.run_finished(this, OUTCOME)
    assert heard == [
        ("started", this),
        ("evaluated", this, EVALUATION),
        ("step", this, STEP),
        ("checkpoint", CHECKPOINT),
        ("finished", this, OUTCOME),
    ]


def test_tryfirst_and_trylast_move_a_listener():
    heard = []
    kinds = [type(f"Loss{n}", (FakeLogger,), {"name": f"log{n}"}) for n in range(3)]
    plugins = PluginManager.of(
        listening_module("last", heard, kinds[0], trylast=True),
        listening_module("middle", heard, kinds[1]),
        listening_module("first", heard, kinds[2], tryfirst=True),
    )
    events_of(recipe(plugins, loggers=tuple(kinds)), SilentReporter()).run_started(run())
    assert heard == ["first", "middle", "last"]


def test_all_others_hear_the_event_before_the_one_that_raised_ends_the_run():
    heard = []
    kinds = [type(f"Loss{n}", (FakeLogger,), {"name": f"log{n}"}) for n in range(1)]

    class Failing(FakeLoss):
        name = "failing"

    plugins = PluginManager.of(
        listening_module("bad", heard, Failing, error=ValueError("no good")),
        listening_module("good", heard, *kinds),
    )
    events = events_of(recipe(plugins, Failing, tuple(kinds)), SilentReporter())
    with pytest.raises(PluginError) as caught:
        events.run_started(run())
    assert heard == ["bad", "good"]
    text = str(caught.value)
    assert text.startswith('plugin "bad" raised in dpotrain_run_started: ValueError: no good (')
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_made_for_people_is_shown_in_its_own_words():
    plugins = PluginManager.of(listening_module("bad", [], FakeLoss, error=RunError("the disk is full")))
    with pytest.raises(PluginError) as caught:
        events_of(recipe(plugins), SilentReporter()).run_started(run())
    assert str(caught.value) == 'plugin "bad" raised in dpotrain_run_started: the disk is full'


def test_other_processes_hear_nothing_and_open_no_logger():
    heard = []
    plugins = PluginManager.of(listening_module("selected", heard, FakeLoss, FakeLogger))
    chosen = recipe(plugins, loggers=(FakeLogger,))
    events = events_of(chosen, SilentReporter())
    events.run_started(run(main=False))
    events.loggers.start(run(main=False))
    events.loggers.log(EVALUATION)
    events.loggers.finish(OUTCOME)
    assert heard == []
    assert chosen.loggers[0].heard == []


class Following(FakeLoss):
    name = "following"
    heard: ClassVar[list[str]] = []

    @hookimpl
    def dpotrain_step_ended(self, step):
        self.heard.append(step.step)


def test_what_shapes_the_steps_hears_of_them_on_every_process():
    plugins = PluginManager.of(Offers("following", Following))
    events = events_of(recipe(plugins, Following), SilentReporter())
    events.step_ended(run(main=False), STEP)
    assert Following.heard == [STEP.step]


def test_the_methods_of_a_logger_hear_events_in_its_thread_in_order_with_its_records():
    heard = []

    class Listening(FakeLogger):
        name = "listening"

        def log(self, record):
            heard.append(("log", threading.current_thread(), record))

        @hookimpl
        def dpotrain_evaluated(self, evaluation, run):
            heard.append((run.folder, threading.current_thread(), evaluation))
            assert not hasattr(run, "policy")

    chosen = recipe(PluginManager.of(Offers("p", FakeLoss, Listening)), loggers=(Listening,))
    events, this = events_of(chosen, SilentReporter()), run()
    events.loggers.start(this)
    events.loggers.log(EVALUATION)
    events.evaluated(this, EVALUATION)
    events.loggers.finish(OUTCOME)
    assert [(what, evaluation) for what, _, evaluation in heard] == [
        ("log", EVALUATION),
        (Path(), EVALUATION),
    ]
    assert {thread is threading.main_thread() for _, thread, _ in heard} == {False}


def test_a_logger_that_raises_in_a_run_event_is_dropped_without_ending_the_run():
    class Bad(FakeLogger):
        name = "bad"

        @hookimpl
        def dpotrain_run_started(self, run):
            raise ConnectionError("gone")

    chosen, reporter = recipe(PluginManager.of(Offers("p", FakeLoss, Bad)), loggers=(Bad,)), Recording()
    events = events_of(chosen, reporter)
    events.loggers.start(run())
    events.run_started(run())
    events.loggers.finish(OUTCOME)
    assert [name for name, _ in chosen.loggers[0].heard] == ["start"]
    (text,) = reporter.warnings
    assert "dpotrain_run_started raised ConnectionError: gone" in text


def test_a_module_that_is_there_for_its_logger_alone_is_dropped_with_it():
    heard = []
    plugins = PluginManager.of(
        Offers("p", FakeLoss), listening_module("log", heard, FakeLogger, error=ValueError("no"))
    )
    reporter = Recording()
    events = events_of(recipe(plugins, loggers=(FakeLogger,)), reporter)
    events.run_started(run())
    events.run_started(run())
    assert heard == ["log"]
    assert events.loggers.names == ()


def test_a_run_begins_by_naming_installed_plugins_that_failed():
    broken = types.ModuleType("broken")
    broken.dpotrain_losses = hookimpl(lambda: None)
    reporter = Recording()
    events_of(recipe(PluginManager.of(Offers("p", FakeLoss), broken)), reporter).run_started(run())
    (text,) = reporter.warnings
    assert text.startswith('plugin "broken" failed and is not used: dpotrain_losses must return')


def test_a_report_takes_what_json_can_hold_and_says_so_where_it_is_called():
    this = run()
    this.report("mine", {"best": 1.5, "table": {"columns": ["a"], "rows": [[None]]}})
    with pytest.raises(TypeError, match=r"run\.report\('mine', …\) takes plain JSON data: .*Path"):
        this.report("mine", {"file": Path("x")})
    assert this.sections["mine"].keys() == {"best", "table"}
