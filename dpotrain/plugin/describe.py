"""What other people's code raised, in a line."""

from __future__ import annotations

from dpotrain.errors import DpotrainError


def describe_exception(error: BaseException) -> str:
    """Return in a line what was raised and where: ``ValueError: bad value (/…/module.py:12)``.

    A DpotrainError was written for people to read and is returned as it stands. Of any other text the first line is
    taken: the rest is for who debugs it, and in the traceback.
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
