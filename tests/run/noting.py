"""Loggers that note what they are told in a file, and that raise or hang on the way; installed like anyone's."""

import json
from pathlib import Path
from typing import Any

from tests.plugin.fakes import install

MODULE = """
import json
import threading
from pathlib import Path

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Logger


class Noting(Logger):
    name = "noting"

    class Options(Logger.Options):
        file: Path = Field(description="Where it notes what it is told.")
        hangs: str = Field("", description="The method that never returns.")
        raises: str = Field("", description="The method that raises.")

    def told(self, method, *what):
        if self.options.hangs == method:
            threading.Event().wait()
        if self.options.raises == method:
            raise ConnectionError("gone")
        with self.options.file.open("a") as file:
            print(json.dumps([method, *what], default=str), file=file)

    def start(self, run):
        facts = ("folder", "config", "seed", "total_steps", "train_pairs", "eval_pairs", "resumed_from")
        self.told("start", {name: getattr(run, name) for name in facts})
        run.note(f"noting in {self.options.file.name}")

    def log(self, record):
        self.told("log", record.kind, record.step, dict(record.metrics))

    def log_text(self, record):
        self.told("log_text", record.step, [[each["prompt"], each["answer"]] for each in record.rows])

    def finish(self, outcome):
        self.told("finish", outcome.status, outcome.steps, dict(outcome.best_evaluation), outcome.error)


@hookimpl
def dpotrain_loggers():
    return [Noting]
"""


def install_noting(site: Path) -> None:
    install(site, "dpotrain-noting", "3.0", noting=MODULE)


def table(file: Path, **options: str) -> str:
    """Return a TOML value for one of [[loggers]]."""
    values = {"use": "noting", "file": str(file), **options}
    return "{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in values.items()) + "}"


def noted(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
