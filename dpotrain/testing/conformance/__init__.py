"""A suite of tests for each kind of component, and one for commands: what the engine relies on.

Subclass the suite of the kind and say which component it is about; ``options`` are keys of its recipe table::

    class TestSimpo(LossConformance):
        component = Simpo
        options = {"gamma": 0.5}

Where a key depends on a file, override the fixture ``table`` instead of setting ``options``. The built-in components
run through the same suites.
"""

from __future__ import annotations

from dpotrain.plugin.api import Component, kind_of
from dpotrain.testing.conformance.adapter import AdapterConformance
from dpotrain.testing.conformance.callback import CallbackConformance
from dpotrain.testing.conformance.command import CommandConformance, VerbConformance
from dpotrain.testing.conformance.component import ComponentConformance
from dpotrain.testing.conformance.exporter import ExporterConformance
from dpotrain.testing.conformance.formatter import DatasetFormatterConformance
from dpotrain.testing.conformance.loader import ModelLoaderConformance
from dpotrain.testing.conformance.logger import LoggerConformance
from dpotrain.testing.conformance.loss import LossConformance
from dpotrain.testing.conformance.metric import MetricConformance
from dpotrain.testing.conformance.optimizer import OptimizerConformance
from dpotrain.testing.conformance.quantizer import QuantizerConformance
from dpotrain.testing.conformance.schedule import ScheduleConformance
from dpotrain.testing.conformance.source import DatasetSourceConformance

__all__ = [
    "AdapterConformance",
    "CallbackConformance",
    "CommandConformance",
    "ComponentConformance",
    "DatasetFormatterConformance",
    "DatasetSourceConformance",
    "ExporterConformance",
    "LoggerConformance",
    "LossConformance",
    "MetricConformance",
    "ModelLoaderConformance",
    "OptimizerConformance",
    "QuantizerConformance",
    "ScheduleConformance",
    "VerbConformance",
    "suite_of",
]


def suite_of(component: type[Component]) -> type[ComponentConformance]:
    """Return the suite of a component's kind; of a kind that a plugin declares, what all components have."""
    name = f"{kind_of(component).component.__name__}Conformance"
    suite: type[ComponentConformance] = globals().get(name, ComponentConformance)
    return suite
