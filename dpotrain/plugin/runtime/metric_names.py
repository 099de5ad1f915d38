"""Names of metrics' numbers in records, and the check that they are unique."""

from __future__ import annotations

from collections.abc import Sequence

from dpotrain.plugin.api import Metric
from dpotrain.plugin.runtime.manager import PluginManager

#: Prefixes of the engine's own metrics, and of evaluations in loggers.
_TAKEN = frozenset({"rewards", "logps", "loss", "eval"})


def logged_names(metric: Metric, plugins: PluginManager) -> tuple[str, ...]:
    """Return the names of a metric's measures in records, which begin with its plugin's name: ``length/margins``."""
    plugin = plugins.owner(type(metric)).name
    return tuple(f"{plugin}/{measure}" for measure in metric.measures)


def faults(metrics: Sequence[Metric], plugins: PluginManager) -> list[tuple[int, str]]:
    """Return the faults of the names of these metrics' measures, each with the number of its metric."""
    found: list[tuple[int, str]] = []
    seen: set[str] = set()
    for number, metric in enumerate(metrics):
        plugin = plugins.owner(type(metric))
        if plugin.name in _TAKEN:
            text = f"{plugin.label} has the name of a prefix that records use; it needs another name"
            found.append((number, text))
        for name in logged_names(metric, plugins):
            if name in seen:
                found.append((number, f"a second metric would be logged as {name}; keep one of the two"))
            seen.add(name)
    return found
