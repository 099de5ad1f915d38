"""What is printed on a terminal of some width, or to a file, as text."""

import io
from collections.abc import Callable

from rich.console import Console


def on_terminal(print_it: Callable[[Console], object], width: int | None) -> str:
    """Return what is printed, without colours; ``width`` is None for a file."""
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=width is not None, color_system=None, legacy_windows=False,
        _environ={},
    )  # fmt: skip
    print_it(console)
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())
