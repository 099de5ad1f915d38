"""Callbacks steer the run: early ends that count as finished, checkpoints, evaluations, numbers and texts."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from dpotrain import hookimpl
from dpotrain.core.errors import PluginError, RecipeError, RunError
from dpotrain.core.reporter import SilentReporter
from dpotrain.plugin.api import Callback, Record, Run
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.recipe.load import load_recipe
from dpotrain.report.replay import replay
from dpotrain_plugins.callbacks.early_stopping import EarlyStopping
from tests.plugin.fakes import Offers, install
from tests.run.recipes import Recording, project, records, run, weights


class Asking(Callback):
    """Does what a test wants at an event."""

    name = "asking"
    at_step: ClassVar = staticmethod(lambda run, step: None)
    at_evaluation: ClassVar = staticmethod(lambda run, evaluation: None)

    @hookimpl
    def dpotrain_step_ended(self, run, step):
        type(self).at_step(run, step)

    @hookimpl
    def dpotrain_evaluated(self, run, evaluation):
        type(self).at_evaluation(run, evaluation)


def plugins(**events):
    made = type("Made", (Asking,), {name: staticmethod(event) for name, event in events.items()})
    return PluginManager.from_entry_points(extra=[Offers("mine", made)])


ASKING = "callbacks=[{use='asking'}]"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe of ten steps, run as it is."""
    recipe = project(tmp_path_factory.mktemp("plain"))
    run(recipe, "evaluation.every=2")
    return recipe


def test_a_run_that_is_asked_to_stop_is_finished_with_its_result(recipe, tmp_path):
    def stop(run, step):
        if step.step == 5:
            run.stop("it is enough")

    said = Recording()
    into = tmp_path / "run"
    outcome = run(recipe, ASKING, into=into, plugins=plugins(at_step=stop), reporter=said)
    assert (outcome.status, outcome.steps) == ("finished", 5)
    assert "the run ends after step 5: it is enough" in said.notes
    assert (into / "final" / "model.safetensors").exists()
    assert [record["step"] for record in records(into, "eval")] == [0, 5]
    assert records(into)[-1]["step"] == 5
    assert (into / "checkpoints" / "step-00000005").is_dir()
    summary = json.loads((into / "summary.json").read_text())
    assert summary["ended early"] == {"after step": 5, "reason": "it is enough"}
    again = run(recipe, ASKING, into=into, plugins=plugins(at_step=stop), resume=True)
    assert (again.status, again.steps) == ("finished", 5)


def _stop_at_4(run, step):
    if step.step == 4:
        run.stop("it is enough")


def _log_texts(run, evaluation):
    run.log_text("rows", [{"step": evaluation.step}])


STOPPING = {"at_step": _stop_at_4, "at_evaluation": _log_texts}


def test_a_run_that_failed_after_it_was_asked_to_stop_ends_there_when_it_is_resumed(
    recipe, tmp_path, monkeypatch
):
    """The checkpoint of the step comes before its evaluation, which is logged once."""

    def fail(*_):
        raise RunError("the disk is full")

    chosen, into = [ASKING, "checkpoints.every=2"], tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("dpotrain.run.session.save_result", fail)
        with pytest.raises(RunError, match="the disk is full"):
            run(recipe, *chosen, into=into, plugins=plugins(**STOPPING))
    outcome = run(recipe, *chosen, into=into, plugins=plugins(**STOPPING), resume=True)
    assert (outcome.status, outcome.steps) == ("finished", 4)
    assert outcome.sections["ended early"] == {"after step": 4, "reason": "it is enough"}
    assert [record["step"] for record in records(into, "eval")] == [0, 4]
    texts = [json.loads(line) for line in (into / "texts.jsonl").read_text().splitlines()]
    assert [text["rows"] for text in texts] == [[{"step": 0}], [{"step": 4}]]


def test_a_signal_at_the_step_that_was_to_be_the_last_does_not_outlive_the_request(recipe, tmp_path):
    into = tmp_path / "run"
    chosen = {"plugins": plugins(at_step=_stop_at_4), "into": into}
    assert run(recipe, ASKING, reporter=Recording(stop_at=4), **chosen).status == "stopped"
    outcome = run(recipe, ASKING, resume=True, **chosen)
    assert (outcome.status, outcome.steps) == ("finished", 4)
    longer = run(recipe, ASKING, "training.epochs=3", resume=True, **chosen)
    assert (longer.status, longer.steps) == ("finished", 15)


@pytest.mark.parametrize("reason", ["", None])
def test_a_stop_without_a_reason_is_refused(recipe, tmp_path, reason):
    chosen = plugins(at_step=lambda run, step: run.stop(reason))
    with pytest.raises(PluginError, match="takes the reason, a few words"):
        run(recipe, ASKING, into=tmp_path / "run", plugins=chosen)


def test_asked_to_stop_at_its_last_step_a_run_has_not_ended_early(recipe, tmp_path):
    chosen = plugins(at_step=lambda run, step: run.stop("it is over") if step.step == 10 else None)
    outcome = run(recipe, ASKING, into=tmp_path / "run", plugins=chosen)
    assert (outcome.status, outcome.steps) == ("finished", 10)
    assert "ended early" not in outcome.sections


def test_steps_since_the_last_record_are_in_the_last_one(recipe, tmp_path):
    chosen = plugins(at_step=lambda run, step: run.stop("now") if step.step == 5 else None)
    run(recipe, ASKING, "logging.every=3", into=tmp_path / "run", plugins=chosen)
    assert [record["step"] for record in records(tmp_path / "run")] == [3, 5]


def test_checkpoints_and_evaluations_come_when_they_are_asked_for_and_change_nothing(recipe, tmp_path):
    def ask(run, step):
        if step.step == 3:
            run.save()
            run.evaluate()

    into = tmp_path / "run"
    said = Recording()
    run(recipe, ASKING, "evaluation.every=2", into=into, plugins=plugins(at_step=ask), reporter=said)
    assert [record["step"] for record in records(into, "eval")] == [0, 2, 3, 4, 6, 8, 10]
    assert weights(into / "final") == weights(recipe.parent / "run" / "final")


def test_numbers_are_in_the_records_and_a_resumed_run_has_the_same(recipe, tmp_path):
    def at_step(run, step):
        if step.step % 2:
            run.log(odd=step.step)

    def at_evaluation(run, evaluation):
        run.log(**{"mine/margin": evaluation.metrics["rewards/margins"]})

    def logged(folder):
        return [
            {key: line[key] for key in ("step", "kind", "odd", "mine/margin") if key in line}
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ]

    chosen = [ASKING, "evaluation.every=4", "logging.every=3", "checkpoints.every=4"]
    events = {"at_step": at_step, "at_evaluation": at_evaluation}
    run(recipe, *chosen, into=tmp_path / "one", plugins=plugins(**events))
    lines = logged(tmp_path / "one")
    assert [(line["step"], line["odd"]) for line in lines if "odd" in line] == [(3, 3), (6, 5), (9, 9)]
    assert all(("mine/margin" in line) == (line["kind"] == "eval") for line in lines)
    stopping = Recording(stop_at=4)
    assert (
        run(recipe, *chosen, into=tmp_path / "two", plugins=plugins(**events), reporter=stopping).status
        == "stopped"
    )
    run(recipe, *chosen, into=tmp_path / "two", plugins=plugins(**events), resume=True)
    assert logged(tmp_path / "two") == lines


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": 1.0}, "is a number of the run itself"),
        ({"length/margins": 1.0}, r"is a number of the recipe's \[\[metrics\]\]"),
        ({"text": "x"}, "takes numbers"),
    ],
)
def test_what_is_no_number_of_its_own_is_refused_by_name(recipe, tmp_path, values, said):
    chosen = plugins(at_step=lambda run, step: run.log(**values))
    with pytest.raises(PluginError, match=said) as caught:
        run(recipe, ASKING, 'metrics=[{use="length"}]', into=tmp_path / "run", plugins=chosen)
    assert 'callback "asking" of plugin "mine" raised in dpotrain_step_ended' in str(caught.value)


HEARING = """
import json
from dpotrain import hookimpl
from dpotrain.plugin.api import Logger


class Hearing(Logger):
    name = "hearing"

    def start(self, run):
        self.file = run.folder / "heard.jsonl"

    def log(self, record):
        pass

    def log_text(self, record):
        with self.file.open("a") as file:
            file.write(json.dumps(record.as_json()) + "\\n")

    def finish(self, outcome):
        pass


@hookimpl
def dpotrain_loggers():
    return [Hearing]
"""


def test_texts_reach_their_file_every_logger_and_sync(recipe, tmp_path, monkeypatch):
    install(site := tmp_path / "site", "dpotrain-hearing", "1.0", hearing=HEARING)
    monkeypatch.syspath_prepend(site)

    def judge(run, evaluation):
        pairs = run.held_out()
        run.log_text("judged", [{"prompt": pair.prompt, "tokens": len(pair.chosen_ids)} for pair in pairs])

    into = tmp_path / "run"
    chosen = [ASKING, "loggers=[{use='hearing'}]"]
    run(recipe, *chosen, into=into, plugins=plugins(at_evaluation=judge))
    written = (into / "texts.jsonl").read_text()
    assert [json.loads(line)["step"] for line in written.splitlines()] == [0, 10]
    rows = json.loads(written.splitlines()[0])["rows"]
    prompts = [
        json.loads(line)["prompt"] for line in (recipe.parent / "pairs.jsonl").read_text().splitlines()
    ]
    assert rows
    assert all(row["prompt"] in prompts and row["tokens"] > 0 for row in rows)
    assert list(map(json.loads, (into / "heard.jsonl").read_text().splitlines())) == list(
        map(json.loads, written.splitlines())
    )
    (into / "heard.jsonl").unlink()
    replay(into, lambda text: None, overrides=["callbacks=[]"])
    assert len((into / "heard.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"b": 1}], [{"a": None}], ["text"]])
def test_what_is_no_table_of_texts_is_refused(recipe, tmp_path, rows):
    chosen = plugins(at_step=lambda run, step: run.log_text("mine", rows))
    with pytest.raises(PluginError, match="takes rows with the same columns"):
        run(recipe, ASKING, into=tmp_path / "run", plugins=chosen)


def test_early_stopping_ends_a_run_that_no_longer_improves_and_goes_on_after_a_resumption(recipe, tmp_path):
    """A metric that cannot improve: what is expected is counted from the first evaluation."""
    chosen = [
        "callbacks=[{use='early-stopping', patience=3, metric='rewards/accuracies', min_change=1.0}]",
        "evaluation.every=1",
    ]
    said = Recording()
    outcome = run(recipe, *chosen, into=tmp_path / "one", reporter=said)
    assert (outcome.status, outcome.steps) == ("finished", 3)
    assert any("rewards/accuracies has not improved on" in note for note in said.notes)
    stopped = run(recipe, *chosen, into=tmp_path / "two", reporter=Recording(stop_at=2))
    assert stopped.status == "stopped"
    assert run(recipe, *chosen, into=tmp_path / "two", resume=True).steps == 3


@pytest.mark.parametrize(
    ("losses", "stops"),
    [([math.nan, 1.0, 0.9, 0.8], None), ([1.0, math.nan, 0.9, 0.8], None), ([math.nan] * 4, 3)],
)
def test_a_loss_that_is_not_a_number_is_no_improvement_and_nothing_to_improve_on(losses, stops):
    asked, callback = [], EarlyStopping(EarlyStopping.Options(patience=2))
    for number, loss in enumerate(losses, 1):
        stopped = SimpleNamespace(stop=lambda reason, at=number: asked.append(at))
        callback.dpotrain_evaluated(stopped, Record("eval", number, {"loss": loss}))
    assert (asked or [None])[0] == stops


@pytest.mark.soak
def test_early_stopping_of_two_processes_ends_both(recipe, forked, tmp_path):
    chosen = [
        "callbacks=[{use='early-stopping', patience=2, min_change=100.0}]",
        "evaluation.every=1",
        f"run.output_dir={str(tmp_path / 'run')!r}",
    ]
    ended = forked.ranks(recipe, chosen)
    assert [each.code for each in ended] == [0, 0], ended
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["callbacks=[{use='early-stopping'}]"], "early-stopping needs evaluations during training"),
        (["callbacks=[{use='early-stoping'}]"], 'did you mean "early-stopping"'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(recipe, overrides, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe, overrides)


def test_a_metric_that_evaluations_do_not_have_is_named_with_those_they_have(recipe, tmp_path):
    chosen = ["callbacks=[{use='early-stopping', metric='acuracy'}]", "evaluation.every=1"]
    with pytest.raises(Exception, match='no metric "acuracy"') as caught:
        run(recipe, *chosen, into=tmp_path / "run", reporter=SilentReporter())
    assert "rewards/accuracies" in str(caught.value)


def test_a_callback_sees_what_those_before_it_logged_in_an_evaluation(recipe, tmp_path):
    """Early stopping may follow a number that another callback finds out."""
    judged = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    made = plugins(at_evaluation=lambda run, evaluation: run.log(**{"judged/wins": next(judged)}))
    stopping = "{use='early-stopping', metric='judged/wins', patience=2}"
    overrides = ["evaluation.every=2", f"callbacks=[{{use='asking'}}, {stopping}]"]
    outcome = run(recipe, *overrides, into=tmp_path / "run", plugins=made)
    assert outcome.steps < 10
    assert outcome.status == "finished"


@pytest.mark.parametrize("ask", ["log", "log_text", "stop", "save", "evaluate"])
def test_what_belongs_to_a_step_is_refused_when_the_run_is_over(ask):
    run = Run(Path(), {}, *[SimpleNamespace()] * 3, 0, 1, 1, 1)
    run.close()
    with pytest.raises(
        ValueError, match=rf"run.{ask}: the run is over; run.report puts values into summary.json"
    ):
        {
            "log": lambda: run.log(a=1),
            "log_text": lambda: run.log_text("a", []),
            "stop": lambda: run.stop("x"),
        }.get(ask, getattr(run, ask))()


def test_the_last_event_of_a_run_is_after_its_end(recipe, tmp_path):
    class Late(Asking):
        name = "asking"

        @hookimpl
        def dpotrain_run_finished(self, run):
            run.stop("too late")

    found = PluginManager.from_entry_points(extra=[Offers("mine", Late)])
    with pytest.raises(
        PluginError, match=r"raised in dpotrain_run_finished: ValueError: run.stop: the run is over"
    ):
        run(recipe, ASKING, "training.steps=1", into=tmp_path / "run", plugins=found)
