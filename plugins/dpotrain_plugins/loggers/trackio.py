"""The ``trackio`` logger: records to Trackio's local store, or to a Space; needs the extra ``trackio``.

The resolved recipe, the plugins that ran and how the run ended are its config. Nothing of the data ever goes there but
the prompts of ``[samples]`` with their answers, as a table; nor does source code, the command line or who started the
run.

A record's log id is made of the run's id and the step, and Trackio drops a second record of the same log id: steps that
a resumed run repeats are there once. ``trackio.init`` is not used: it asks the hub who one is even where it logs to
files, leaves errors at a warning, and finds a run to go on with by a name that others may have as well.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import LoggedRun, Logger, Outcome, Record, TextRecord, mask_values, require
from dpotrain_plugins.loggers.tracking import cells, closing_numbers, kept_id, named

dpotrain_interface = 2

#: Seconds that one request to a Space may take, well below what ``logging.patience`` gives a logger.
TIMEOUT = 30.0


class TrackioLogger(Logger):
    """Logs to Trackio: to the local store that ``trackio show`` reads, or to a Space of the Hugging Face hub."""

    name = "trackio"

    class Options(Logger.Options):
        project: str = Field("dpotrain", min_length=1, description="The project that the run appears in.")
        name: str | None = Field(None, description="Name of the run; the run folder's name unless set.")
        group: str | None = Field(None, description="Group of runs that this one belongs to.")
        space_id: str | None = Field(
            None,
            pattern=r"^[^/\s]+/[^/\s]+$",
            description='A Space with Trackio that is there already, "you/name"; unless set, the local store '
            "(TRACKIO_DIR), and no network.",
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._put: Callable[[dict[str, Any]], None] = lambda entry: None
        self._run: dict[str, str] = {}
        self._config: dict[str, Any] = {}
        self._described = False

    def check(self) -> None:
        require(self, "trackio", extra="trackio")

    def start(self, run: LoggedRun) -> None:
        """Open the store; a resumed run goes on under its id, which the run folder's ``trackio`` folder keeps."""
        from trackio import SQLiteStorage

        project = mask_values(self.options.project)
        SQLiteStorage.validate_project_name(project)
        self._put = _to_space(self.options.space_id) if self.options.space_id else _to_files()
        self._run = {
            "project": project,
            "run": mask_values(self.options.name or run.folder.name),
            "run_id": kept_id(run.folder / "trackio" / "run-id.txt", lambda: uuid.uuid4().hex),
        }
        group = None if self.options.group is None else mask_values(self.options.group)
        self._config = {
            **run.config,
            "plugins": [dict(plugin) for plugin in run.plugins],
            "status": "running",
            "_Group": group,
            "_Created": datetime.now(UTC).isoformat(),
        }
        if self.options.space_id:
            run.note(f"trackio: https://huggingface.co/spaces/{self.options.space_id}")
        else:
            run.note(f'trackio logs to files; look at them with: trackio show --project "{project}"')

    def log(self, record: Record) -> None:
        """Put one record; the first brings the recipe along."""
        self._log(record.kind, record.step, named(record))

    def log_text(self, record: TextRecord) -> None:
        """Put the texts of a step as a table."""
        from trackio import Table

        table = Table(columns=list(record.columns), data=cells(record))
        self._log(record.name, record.step, {record.name: {"_type": Table.TYPE, "_value": table.data}})

    def finish(self, outcome: Outcome) -> None:
        """Put the closing numbers, and finished, stopped or failed as the config's ``status``."""
        self._config["status"] = outcome.status
        self._described = False
        self._log("summary", outcome.steps, closing_numbers(outcome, "summary/"))

    def _log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        from trackio.utils import serialize_values

        entry = {
            **self._run,
            "metrics": serialize_values(values),  # JSON has no NaN; Trackio's readers undo this
            "step": step,
            "timestamp": datetime.now(UTC).isoformat(),
            "config": None if self._described else self._config,
            "log_id": f"{self._run['run_id']}-{kind}-{step}",
        }
        self._put(entry)
        self._described = True


def _to_files() -> Callable[[dict[str, Any]], None]:
    """Return what puts an entry into the local store, in whichever of its two forms Trackio has there."""
    from trackio import SQLiteStorage, fragments, utils

    if utils.get_storage_mode() == "jsonl":  # a network file system, where SQLite is not safe
        writer = fragments.FragmentWriter()
        return lambda entry: writer.write_local([fragments.metric_record(entry)])
    return lambda entry: SQLiteStorage.bulk_log(
        entry["project"],
        entry["run"],
        metrics_list=[entry["metrics"]],
        steps=[entry["step"]],
        timestamps=[entry["timestamp"]],
        config=entry["config"],
        log_ids=[entry["log_id"]],
        run_id=entry["run_id"],
    )


def _to_space(space: str) -> Callable[[dict[str, Any]], None]:
    """Return what sends an entry to a Space."""
    from huggingface_hub import get_token
    from trackio import RemoteClient

    token = get_token()
    client = RemoteClient(space, hf_token=token, httpx_kwargs={"timeout": TIMEOUT})
    return lambda entry: client.predict(api_name="/bulk_log", logs=[entry], hf_token=token)


@hookimpl
def dpotrain_loggers() -> list[type[Logger]]:
    return [TrackioLogger]
