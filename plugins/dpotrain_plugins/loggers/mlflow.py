"""The ``mlflow`` logger: records to an MLflow server, else to files in the run folder; needs the extra ``mlflow``.

The resolved recipe's values are parameters, the plugins that ran are tags. Nothing of the data ever goes there but the
prompts of ``[samples]`` with their answers, as a table; nor does source code, the command line or who started the run.

MLflow keeps every value that it is sent, so of a run that goes on, a value is not sent whose step it has already. A
parameter cannot be changed there: of a recipe that was changed for resuming, the first value stays.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Logger, RecipeError, mask_data, mask_values, require
from dpotrain_plugins.loggers.tracking import closing_numbers, kept_id, named, plugin_text

if TYPE_CHECKING:
    from dpotrain.plugin.api import LoggedRun, Outcome, Record, TextRecord

dpotrain_interface = 2

#: What MLflow takes from the environment alone, set where the person has not: nothing sent about how MLflow is used,
#: files as a store, and a server that does not answer given up well within ``logging.patience``.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}

#: What no name at MLflow may have in it.
_STRANGE = re.compile(r"[^\w .:/-]", re.ASCII)


class MLflowLogger(Logger):
    """Logs to MLflow: to a tracking server, or without one into the run folder."""

    name = "mlflow"

    class Options(Logger.Options):
        experiment: str = Field(
            "dpotrain", min_length=1, description="The experiment that the run appears in."
        )
        tracking_uri: str | None = Field(
            None,
            description="The tracking server's address, or another store that MLflow knows; MLFLOW_TRACKING_URI "
            "unless set, and without that files in the run folder.",
        )
        name: str | None = Field(None, description="Name of the run; the run folder's name unless set.")
        tags: dict[str, str] = Field({}, description="Tags of the run.")

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._client: Any = None
        self._id = ""
        self._steps: dict[str, set[int]] | None = None
        """The steps that MLflow has of each metric, of those that were asked for; None for a new run."""

    def check(self) -> None:
        """Raise a RecipeError that names what is not installed: MLflow, or what its database stores need."""
        require(self, "mlflow", extra="mlflow")
        scheme = (self._uri() or "").partition(":")[0].partition("+")[0]
        if scheme in {"sqlite", "postgresql", "mysql", "mssql"} and find_spec("sqlalchemy") is None:
            raise RecipeError(
                f'the "mlflow" logger is to write to a database ({scheme}), which takes the whole of MLflow\n'
                "install it: pip install mlflow"
            )

    def start(self, run: LoggedRun) -> None:
        """Open the run; one that is resumed goes on under its id, which the run folder's ``mlflow`` folder keeps."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        folder = (run.folder / "mlflow").resolve()
        store = folder / "mlruns"
        uri = self._uri()
        self._client = MlflowClient(tracking_uri=uri or store.as_uri())
        kept = folder / "run-id.txt"
        self._steps = {}
        self._id = kept_id(kept, lambda: self._made(run))
        if self._steps is not None and not self._known():
            kept.unlink()
            self._id = kept_id(kept, lambda: self._made(run))
        self._describe(run)
        if uri is None:
            run.note(
                "mlflow logs into the run folder; look at it with: "
                f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(str(store))}"
            )
        else:
            run.note(
                f"mlflow: run {self._id} of {mask_values(self.options.experiment)} at {mask_values(uri)}"
            )

    def log(self, record: Record) -> None:
        """Send one record, without what MLflow has of its step."""
        self._send(named(record), record.step)

    def log_text(self, record: TextRecord) -> None:
        """Append the texts of a step to the run's table of that name, unless it has the step."""
        if not record.rows or record.step in self._told(record.name):
            return
        columns = {column: [row[column] for row in record.rows] for column in record.columns}
        table = {"step": [record.step] * len(record.rows), **columns}
        self._client.log_table(self._id, table, f"{record.name}.json")

    def finish(self, outcome: Outcome) -> None:
        """Send the closing numbers and close the run as FINISHED, KILLED (it was stopped) or FAILED."""
        self._send(closing_numbers(outcome, "summary/"), outcome.steps)
        self._client.set_terminated(self._id, _STATUS[outcome.status])

    def _uri(self) -> str | None:
        return self.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None

    def _made(self, run: LoggedRun) -> str:
        """Make the run, and its experiment where there is none, and return its id."""
        from mlflow.exceptions import MlflowException

        name = mask_values(self.options.experiment)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:  # another run may have been quicker
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = self._client.get_experiment_by_name(name)
        shown = mask_values(self.options.name or run.folder.name)
        made = self._client.create_run(experiment.experiment_id, run_name=shown or None)
        self._steps = None
        return str(made.info.run_id)

    def _known(self) -> bool:
        """Say whether the store has the run: it may be another one than when the run began."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(self._id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _describe(self, run: LoggedRun) -> None:
        """Send the recipe, the plugins and the tags, and that the run is going on."""
        from mlflow.entities import Param, RunTag

        self._client.update_run(self._id, status="RUNNING")
        there = self._client.get_run(self._id).data.params
        params = [Param(key, text) for key, text in _flat(run.config) if key not in there]
        tags = mask_data(self.options.tags) | {
            f"plugins.{plugin['name']}": plugin_text(plugin) for plugin in run.plugins
        }
        labels = [RunTag(_allowed(key), text) for key, text in tags.items()]
        self._client.log_batch(self._id, params=params, tags=labels)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_allowed(name), float(value), now, step)
            for name, value in values.items()
            if step not in self._sent(_allowed(name))
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)

    def _told(self, name: str) -> set[int]:
        """Return the steps whose texts of this name an earlier attempt at this run has sent."""
        if self._steps is None:
            return set()
        if (key := f"text {name}") not in self._steps:
            files = {artifact.path for artifact in self._client.list_artifacts(self._id)}
            self._steps[key] = set()
            if (file := f"{name}.json") in files:
                with tempfile.TemporaryDirectory() as folder:
                    place = self._client.download_artifacts(self._id, file, folder)
                    table = json.loads(Path(place).read_text(encoding="utf-8"))
                at = table["columns"].index("step")
                self._steps[key] = {int(row[at]) for row in table["data"]}
        return self._steps[key]

    def _sent(self, name: str) -> set[int]:
        """Return the steps of a metric that an earlier attempt at this run has sent."""
        if self._steps is None:
            return set()
        if name not in self._steps:
            self._steps[name] = {metric.step for metric in self._client.get_metric_history(self._id, name)}
        return self._steps[name]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the recipe's values as texts, each under the keys that lead to it: ``loggers.0.use``."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        inner = enumerate(value)
    else:
        yield _allowed(key), value if isinstance(value, str) else json.dumps(value)
    for name, part in inner:
        yield from _flat(part, f"{key}.{name}" if key else str(name))


def _allowed(name: str) -> str:
    return _STRANGE.sub("_", name)


@hookimpl
def dpotrain_loggers() -> list[type[Logger]]:
    return [MLflowLogger]
