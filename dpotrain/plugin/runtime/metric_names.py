"""What the numbers of metrics are called in records, and that no two are called the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpotrain.plugin.api import Metric
    from dpotrain.plugin.runtime.manager import PluginManager

_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")

#: What the engine's own metrics, and those of evaluations at a logger's, begin with.
_TAKEN = frozenset({"rewards", "logps", "eval"})


def logged_names(metric: Metric, plugins: PluginManager) -> tuple[str, ...]:
    """Return the names of a metric's measures in records: behind the name of its plugin, ``length/margins``."""
    plugin = plugins.owner(type(metric)).name
    return tuple(f"{plugin}/{measure}" for measure in metric.measures)


def faults(metrics: Sequence[Metric], plugins: PluginManager) -> list[tuple[int, str]]:
    """Return what is wrong with the names of these metrics' measures, each with the number of its metric."""
    found: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, metric in enumerate(metrics):
        plugin = plugins.owner(type(metric))
        if plugin.name in _TAKEN:
            text = f"{plugin.label} is called like numbers that records have anyway; it needs another name"
            found.append((number, text))
        measures = metric.measures
        if not isinstance(measures, tuple) or not measures or not all(map(_proper, measures)):
            text = f'metric "{metric.name}" must have measures, a tuple of names, not {measures!r}'
            found.append((number, text))
            continue
        for name in logged_names(metric, plugins):
            if name in seen:
                found.append((number, f"a second metric would be logged as {name}; keep one of the two"))
            seen.add(name)
    return found


def _proper(measure: object) -> bool:
    return isinstance(measure, str) and _NAME.fullmatch(measure) is not None
