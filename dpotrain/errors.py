"""The errors a person may see, each with the exit code that the command line returns for it.

An error's text is a few lines: what is wrong, where, and what to do about it. Code raises the class
whose exit code fits; nothing else in dpotrain calls ``sys.exit``.
"""

from __future__ import annotations

from typing import ClassVar


def short(text: str, most: int = 100) -> str:
    """Return what a person wrote as a message quotes it: in full, unless it is so long that it hides the message."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class DpotrainError(Exception):
    """Something a person can mend; shown without a traceback unless ``--debug`` is given."""

    exit_code: ClassVar[int] = 1


class RecipeError(DpotrainError):
    """The recipe or the command line is wrong; nothing heavy has been loaded yet."""

    exit_code = 2


class DataError(DpotrainError):
    """The data is missing, of no known shape, or leaves no pair to train on."""

    exit_code = 3


class PluginError(DpotrainError):
    """A plugin failed: it could not be imported, misspelt a hook, or raised while the run used it."""


class RunError(DpotrainError):
    """The run itself cannot go on: its folder, a checkpoint, or the numbers are wrong."""


class RunStopped(DpotrainError):  # noqa: N818 - no error: it was asked for
    """The run was stopped by a signal after its state was saved; ``--resume`` goes on from there."""

    exit_code = 75
