"""The errors that users see, each with the exit code of the command line. Nothing in dpotrain calls ``sys.exit``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

#: What shells give a process that was interrupted: 128 + SIGINT.
INTERRUPTED = 130


def short(text: str, most: int = 100) -> str:
    """Return the user's text as a message quotes it, cut to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``; did you mean "beta"?`` with the known name nearest to a misspelt one, or "" where none is near.

    ``cutoff``, from 0 to 1, is how similar the names have to be.
    """
    import difflib  # 5 ms that only an error needs

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f'; did you mean "{near[0]}"?' if near else ""


class DpotrainError(Exception):
    """Something a person can fix, the base of the errors below; its text is shown as it is."""

    exit_code: ClassVar[int] = 1


class RecipeError(DpotrainError):
    """The recipe or the command line is wrong; nothing heavy has been loaded yet.

    In a component's ``check()`` and in commands: a value that cannot work, a package or a folder that is missing.
    """

    exit_code = 2


class DataError(DpotrainError):
    """The data is missing, in no known format, or without a usable pair. In sources: a split that is not there."""

    exit_code = 3


class PluginError(DpotrainError):
    """A plugin failed: it could not be imported, misspelt a hook, or raised while the run used it.

    Raised by dpotrain, also for whatever else a plugin raises.
    """


class RunError(DpotrainError):
    """The run cannot continue: its folder, a checkpoint, or its numbers are wrong, or a service refuses."""


class RunWarning(UserWarning):
    """What a person should know before training; ``warnings.warn(text, RunWarning)`` shows it as the run's own."""


class RunStopped(DpotrainError):  # noqa: N818 - not an error: it was requested
    """The run was stopped by a signal after its state was saved; ``--resume`` continues."""

    exit_code = 75


def describe_exception(error: BaseException) -> str:
    """Return one line with what was raised and where: ``ValueError: bad value (/…/module.py:12)``.

    The text of a DpotrainError is written for users and is returned unchanged. Of any other text the first line is
    kept; the rest is in the traceback.
    """
    if isinstance(error, DpotrainError):
        return str(error)
    first, *rest = str(error).strip().splitlines() or [""]
    text = ": ".join(part for part in (type(error).__name__, first + " …" * bool(rest)) if part)
    if isinstance(error, SyntaxError):
        return text
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or traceback.tb_frame.f_code.co_filename.startswith("<"):
        return text
    return f"{text} ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})"
