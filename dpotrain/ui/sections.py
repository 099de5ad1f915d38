"""What plugins report at the end of a run (``Run.report``), as lines and a table of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpotrain.core.formats import count, printable


def section_lines(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the plain values by label; ``x_before`` and ``x_after`` are one line."""
    plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
    lines = {}
    for key, value in plain.items():
        stem = key.removesuffix("_before").removesuffix("_after")
        before, after = plain.get(f"{stem}_before"), plain.get(f"{stem}_after")
        if stem != key and before is not None and after is not None:
            lines[stem.replace("_", " ")] = f"{_plain(before)} before, {_plain(after)} after"
        else:
            lines[key.replace("_", " ")] = _plain(value)
    return lines


def section_table(values: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the value ``table``; both empty where it is not a table."""
    table = values.get("table")
    if not (isinstance(table, Mapping) and _listed(table.get("columns")) and _listed(table.get("rows"))):
        return [], []
    columns = [printable(str(name)) for name in table["columns"]]
    rows = filter(_listed, table["rows"])
    return columns, [[printable(_plain(cell)) for cell in row[: len(columns)]] for row in rows]


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        # Only the plugin knows whether a fraction is a share, so it is not shown in percent.
        return f"{value:.4g}"
    return str(value)
