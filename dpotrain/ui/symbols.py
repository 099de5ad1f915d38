"""Characters that output draws with, and what stands for them where an encoding lacks them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class Symbols:
    """Characters of an encoding."""

    line_end: str
    gutter: str
    bar: str
    dash: str
    opens: str
    closes: str

    @classmethod
    def of(cls, console: Console) -> Symbols:
        """Return the symbols that the console's encoding has."""
        return _UNICODE if console.encoding.lower().startswith("utf") else _ASCII


_UNICODE = Symbols(line_end="⏎", gutter="│", bar="█", dash="─", opens="«", closes="»")
_ASCII = Symbols(line_end="\\n", gutter="|", bar="#", dash="-", opens="<<", closes=">>")
