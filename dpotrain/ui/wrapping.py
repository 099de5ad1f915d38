"""Lines broken between words only, so that what a person copies stays whole."""

from __future__ import annotations

import re

from rich.cells import cell_len

#: A command to copy: dpotrain's own, or what has an option, from the colon before it on.
_COMMAND = re.compile(r"(?:\bdpotrain [a-z]+ \S.*|(?<=: )[^:]* --\w.*|^\S+ [^:]*--\w.*)$")


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of at most ``width`` columns; words, paths and commands that are longer stand alone.

    The terminal breaks those, and joins them again when they are copied.
    """
    return "\n".join("\n".join(_lines(line, width)) for line in text.split("\n"))


def _lines(text: str, width: int) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip(" ")))
    command = _COMMAND.search(text)
    words = text[len(indent) : command.start() if command else None].split(" ")
    if command:
        words = [word for word in words if word] + [command[0]]
    lines = [indent]
    for word in words:
        if not lines[-1].strip():
            lines[-1] += word
        elif cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return lines
