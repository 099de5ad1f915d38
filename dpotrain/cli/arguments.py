"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def set_option(command: F) -> F:
    """Add ``--set KEY=VALUE``, which may be given several times."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a key of the recipe with a TOML value: training.epochs=2, loggers=[], quantizer=false "
        "(none). May be given several times.",
    )(command)
