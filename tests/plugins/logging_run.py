"""The made-up run that the tests of the loggers share."""

from pathlib import Path

from dpotrain.plugin.api import Logger, Record
from dpotrain.testing.conformance.logger import SECRET, ended, evaluation, made_up_run, samples, train

__all__ = ["SECRET", "begun", "ended", "evaluation", "logged", "made_up_run", "samples", "train"]


def logged(logger: Logger, folder: Path, status: str = "finished") -> list[str]:
    """Give a logger a whole run of four steps that ends like this; return its notes."""
    notes: list[str] = []
    logger.check()
    logger.start(made_up_run(folder, notes))
    for record in (evaluation(0, 0.69), train(2, 0.5), train(4, 0.4), evaluation(4, 0.6)):
        logger.log(record)
    logger.finish(ended(folder, status))
    return notes


def begun(logger: Logger, folder: Path, *records: Record, resumed_from: int = 0) -> Logger:
    """Give a logger the beginning of a run, and nothing of its end."""
    logger.start(made_up_run(folder, resumed_from=resumed_from))
    for record in records:
        logger.log(record)
    return logger
