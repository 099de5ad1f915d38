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


class ProcessLostError(RunError):
    """A process of a run of several ended without a message, or its machine did: starting all again goes on."""

    exit_code = 76


class RunWarning(UserWarning):
    """What a person should know before training; ``warnings.warn(text, RunWarning)`` shows it as the run's own."""


class RunStopped(DpotrainError):  # noqa: N818 - not an error: it was requested
    """The run was stopped by a signal after its state was saved; ``--resume`` continues."""

    exit_code = 75


def describe_exception(error: BaseException, module: str = "") -> str:
    """Return one line with what was raised and where: ``ValueError: bad value (/…/module.py:12)``.

    The text of a DpotrainError is written for users and is returned unchanged. Of any other text the first line is
    kept; the rest is in the traceback. Of a ValidationError of pydantic every error has a line.

    ``module`` is the name of a module whose package, if it has a part in the traceback, is the place that is named: a
    plugin's rather than that of the library that it called.
    """
    if isinstance(error, DpotrainError):
        return str(error)
    if errors := validation_errors(error):
        model = getattr(error, "title", "")
        lines = [
            f"{type(error).__name__} of {model}{_place(error, module)}",
            *(f"  {line}" for line in errors),
        ]
        return "\n".join(lines)
    first, *rest = str(error).strip().splitlines() or [""]
    text = ": ".join(part for part in (type(error).__name__, first + " …" * bool(rest)) if part)
    return text if isinstance(error, SyntaxError) else text + _place(error, module)


def validation_errors(error: BaseException) -> list[str]:
    """Return a line for each error in a ValidationError of pydantic, without the values, which may be secrets.

    Empty for any other exception.
    """
    from pydantic_core import ValidationError

    if not isinstance(error, ValidationError):
        return []
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = [".".join(map(str, detail["loc"])) for detail in details]
    return [
        f"{place}: {detail['msg']}" if place else detail["msg"]
        for place, detail in zip(places, details, strict=True)
    ]


def _place(error: BaseException, module: str) -> str:
    """Return `` (file:line)`` of the last call, or of the last one in the package of ``module``; or ""."""
    calls = []
    traceback = error.__traceback__
    while traceback is not None:
        calls.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    package = module.partition(".")[0]
    own = [
        call
        for call in calls
        if str(call[0].f_globals.get("__name__")).partition(".")[0] == package != "dpotrain"
    ]
    for frame, line in reversed(own or calls[-1:]):
        if not frame.f_code.co_filename.startswith("<"):
            return f" ({frame.f_code.co_filename}:{line})"
    return ""
