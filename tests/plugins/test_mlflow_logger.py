"""The real MLflow with its file store; what it wrote is read back with MLflow's own client."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from dpotrain.core.errors import RecipeError
from dpotrain_plugins.loggers import mlflow as mlflow_logger
from dpotrain_plugins.loggers.mlflow import SETTINGS, MLflowLogger
from tests.plugins.logging_run import SECRET, begun, ended, evaluation, logged, made_up_run, samples, train
from tests.plugins.mlflow_files import client, metrics, the_run
from tests.plugins.offline import network_of
from tests.plugins.serving import Handler, serving


@pytest.fixture(autouse=True)
def _settings_of_nobody(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW")]:
        monkeypatch.delenv(name)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


def _logger(**options: Any) -> MLflowLogger:
    return MLflowLogger(MLflowLogger.Options(**options))


def _logged(folder: Path, status: str = "finished", **options: Any) -> list[str]:
    return logged(_logger(**options), folder, status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("runs") / "my run"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["dpotrain", "run", "recipe.toml", "--set", f"model.token={SECRET}"])
        return folder, _logged(folder, tags={"team": "a"}, experiment="e")


def test_metrics_keep_their_names_and_the_axis_is_the_step(finished):
    found = {
        name: values for name, values in metrics(finished[0], "e").items() if not name.startswith("summary/")
    }
    assert found == {
        "eval/loss": [(0, 0.69), (4, 0.6)],
        "eval/rewards/accuracies": [(0, 0.75), (4, 0.75)],
        "loss": [(2, 0.5), (4, 0.4)],
        "rewards/margins": [(2, 0.25), (4, 0.25)],
        "learning_rate": [(2, 1e-6), (4, 1e-6)],
    }


def test_the_resolved_recipe_the_plugins_and_the_options_arrive(finished):
    run = the_run(finished[0], "e")
    assert run.data.params == {
        "seed": "42",
        "model.use": "transformers",
        "model.name": "tiny",
        "optimizer.lr": "5e-06",
    }
    assert run.data.tags["plugins.losses"] == "dpotrain 0.1.0: loss dpo"
    assert (run.data.tags["team"], run.info.run_name) == ("a", "my run")


def test_the_closing_numbers_stand_under_summary(finished):
    found = metrics(finished[0], "e")
    assert found["summary/eval_best/loss"] == [(4, 0.58)]
    assert found["summary/demo/preferred_after"] == [(4, 0.96)]
    assert found["summary/tokens_per_second"] == [(4, 700.0)]


def test_no_text_of_the_data_no_command_line_and_nobody_s_name_is_written(finished):
    files = [path for path in finished[0].rglob("*") if path.is_file()]
    assert len(files) >= 20
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.git.commit"} & set(
        the_run(finished[0], "e").data.tags
    )
    assert {path.name for path in finished[0].iterdir()} == {"mlflow"}


def test_without_a_server_it_says_how_to_look_at_the_files(finished):
    folder, (note,) = finished
    assert note.endswith(f"mlflow ui --backend-store-uri '{(folder / 'mlflow' / 'mlruns').resolve()}'")


def test_samples_are_one_table_in_which_no_step_is_twice(tmp_path):
    first = begun(_logger(), tmp_path, evaluation(0))
    for step in (0, 2):
        first.log_text(samples(step))
    resumed = begun(_logger(), tmp_path, resumed_from=1)
    for step in (2, 4):
        resumed.log_text(samples(step))
    place = client(tmp_path).download_artifacts(the_run(tmp_path).info.run_id, "samples.json", str(tmp_path))
    table = json.loads(Path(place).read_text(encoding="utf-8"))
    assert table["columns"] == ["step", "prompt", "answer"]
    expected = [[step, *each.values()] for step in (0, 2, 4) for each in samples(step).rows]
    assert table["data"] == expected


@pytest.mark.parametrize(
    ("status", "told"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")]
)
def test_how_the_run_ended_is_its_status(tmp_path, status, told):
    _logged(tmp_path, status)
    assert the_run(tmp_path).info.status == told


def test_a_resumed_run_goes_on_and_no_step_is_there_twice(tmp_path):
    begun(_logger(), tmp_path, evaluation(0), train(1, 0.9), train(2, 0.8), train(3, 0.7))
    resumed = _logger()
    resumed.start(made_up_run(tmp_path, resumed_from=2))
    assert the_run(tmp_path).info.status == "RUNNING"
    for record in (train(3, 0.7), train(4, 0.6), evaluation(4)):
        resumed.log(record)
    resumed.finish(ended(tmp_path))
    found = metrics(tmp_path)
    assert found["loss"] == [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]
    assert found["eval/loss"] == [(0, 0.6), (4, 0.6)]
    assert the_run(tmp_path).info.status == "FINISHED"


def test_a_store_that_does_not_know_the_run_gets_a_new_one(tmp_path):
    _logged(tmp_path, tracking_uri=(tmp_path / "elsewhere").as_uri())
    _logged(tmp_path)
    assert (tmp_path / "mlflow" / "run-id.txt").read_text().strip() == the_run(tmp_path).info.run_id


def test_a_recipe_of_many_keys_and_strange_ones_arrives(tmp_path):
    logger = _logger()
    run = made_up_run(tmp_path)
    object.__setattr__(
        run,
        "config",
        {
            "data": {"columns": {"prompt (short)": "q"}},
            "loggers": [{"use": "mlflow", "tags": {}}],
            "many": {f"key{number}": number for number in range(250)},
            "betas": [0.9, 0.95],
            "long": "x" * 10000,
        },
    )
    logger.start(run)
    found = the_run(tmp_path).data.params
    assert (found["data.columns.prompt _short_"], found["loggers.0.use"]) == ("q", "mlflow")
    assert (found["betas"], found["many.key249"]) == ("[0.9, 0.95]", "249")
    assert found["long"].startswith("xxx")


def test_numbers_that_are_not_finite_are_read_back(tmp_path):
    begun(_logger(), tmp_path, train(1, math.nan), train(2, math.inf), train(3, -math.inf))
    (nan, *rest) = [value for _, value in metrics(tmp_path)["loss"]]
    assert math.isnan(nan)
    assert rest == [math.inf, -math.inf]


def test_the_surrounding_program_keeps_its_run_and_its_store(tmp_path):
    import mlflow

    before = mlflow.get_tracking_uri()
    _logged(tmp_path)
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_what_the_person_has_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    _logged(tmp_path)
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 99
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2


def test_nothing_goes_over_the_network_without_a_server(tmp_path):
    """MLflow sends how it is used, unless told not to or where it takes the process for a test."""
    assert network_of("mlflow", "MLflowLogger", tmp_path) == []
    assert the_run(tmp_path).info.status == "FINISHED"


class _Server(Handler):
    """Answers as a tracking server that knows one experiment and one run, and keeps what it is told."""

    told: list[tuple[str, dict[str, Any]]]

    def get(self, body: bytes) -> None:
        info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "1", "status": "RUNNING", "start_time": 1}
        answers = {
            "get-by-name": {"experiment": {"experiment_id": "1", "name": "dpotrain"}},
            "get": {"run": {"info": info, "data": {}}},
            "create": {"run": {"info": info, "data": {}}},
            "update": {"run_info": info},
        }
        what = self.path.partition("?")[0].rsplit("/", 1)[1]
        self.told.append((what, json.loads(body or b"{}")))
        self.answer(answers.get(what, {}))


def test_a_server_is_sent_the_run_and_its_password_is_not_shown(tmp_path):
    told: list[Any] = []
    with serving(type("Server", (_Server,), {"told": told})) as place:
        uri = f"http://me:hunter2hunter2@{place}"
        notes = _logged(tmp_path / "run", tracking_uri=uri)
        big = made_up_run(tmp_path / "big")
        object.__setattr__(big, "config", {f"key{number}": number for number in range(250)})
        _logger(tracking_uri=uri).start(big)
    assert notes == [f"mlflow: run r1 of dpotrain at http://***@{place}"]
    batches = [body for what, body in told if what == "log-batch"]
    sent = [metric for body in batches for metric in body.get("metrics", [])]
    assert ("eval/loss", 0, 0.69) in [(each["key"], int(each["step"]), each["value"]) for each in sent]
    closed = [body["status"] for what, body in told if what == "update"]
    assert closed == ["RUNNING", "FINISHED", "RUNNING"]
    params = [len(body.get("params", [])) for body in batches]
    assert sum(params) == 254
    assert max(params) == 100, "a server refuses more at once"
    assert SECRET not in json.dumps(told)


def test_a_server_that_cannot_be_reached_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        _logger(tracking_uri="http://127.0.0.1:9").start(made_up_run(tmp_path))
    assert not (tmp_path / "mlflow" / "run-id.txt").exists()


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "postgresql+psycopg2://host/db"])
def test_a_database_without_what_it_takes_is_refused_before_the_run(monkeypatch, uri):
    monkeypatch.setattr(mlflow_logger, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install mlflow$"):
        _logger(tracking_uri=uri).check()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RecipeError, match=r"pip install mlflow$"):
        _logger().check()
