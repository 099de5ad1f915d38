"""A plugin that writes down which process calls what: a component of every kind, and the module's own run events.

``test_plugin_reference.py`` installs the text of this module. ``SPY`` names the file; a line is ``RANK OWNER METHOD``.
"""

import functools
import os
from pathlib import Path

from dpotrain import hookimpl
from dpotrain.plugin.api import Callback, Exporter, Logger, Metric, Quantizer
from dpotrain.plugin.api.hookspecs import EVENTS
from dpotrain.plugin.api.kinds import KINDS
from dpotrain.plugin.describe.tracing import methods_of_kind
from dpotrain_plugins.formatters.standard import StandardFormatter
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses.dpo import Dpo
from dpotrain_plugins.optimizers import AdamW
from dpotrain_plugins.schedules import Constant
from dpotrain_plugins.transformers_loader import TransformersLoader

dpotrain_interface = 2


class Nothing(Quantizer):
    trains_all_weights = True

    def loading_config(self):
        return None

    def prepare(self, model):
        pass


class Ones(Metric):
    measures = ("ones",)

    def __call__(self, scores):
        return {"ones": scores.policy_chosen * 0 + 1}


class Silent(Logger):
    def start(self, run):
        pass

    def log(self, record):
        pass

    def finish(self, outcome):
        pass


class Empty(Exporter):
    def export(self, run):
        return "nowhere"


BASES = (
    TransformersLoader, Nothing, Lora, HFDatasetsSource, StandardFormatter, Dpo, AdamW, Constant,
    Ones, Callback, Silent, Empty,
)  # fmt: skip


def note(owner, method):
    with Path(os.environ["SPY"]).open("a") as file:
        file.write(f"{os.environ.get('RANK', '0')} {owner} {method}\n")


class Listening:
    """Notes every run event."""

    @hookimpl
    def dpotrain_run_started(self):
        note(self.spied, "dpotrain_run_started")

    @hookimpl
    def dpotrain_evaluated(self):
        note(self.spied, "dpotrain_evaluated")

    @hookimpl
    def dpotrain_step_ended(self):
        note(self.spied, "dpotrain_step_ended")

    @hookimpl
    def dpotrain_checkpoint_saved(self):
        note(self.spied, "dpotrain_checkpoint_saved")

    @hookimpl
    def dpotrain_run_finished(self):
        note(self.spied, "dpotrain_run_finished")


def spied(kind, base):
    """Return a subclass of ``base`` that notes every call of a method of its kind, and every run event."""

    def noting(name, inherited):
        @functools.wraps(inherited)
        def call(self, *arguments, **named):
            note(kind.__name__, name)
            return inherited(self, *arguments, **named)

        return call

    names = ["__init__", "check", "state_dict", "load_state_dict", *methods_of_kind(kind)]
    methods = {name: noting(name, getattr(base, name)) for name in names}
    more = {"name": "spy", "spied": kind.__name__, "__module__": __name__}
    if "parts" in vars(kind):
        more["part_names"] = property(kind.part_names.fget)  # of its own, as a loss with parts has it
    return type(f"Spy{kind.__name__}", (Listening, base), {**methods, **more})


module = Listening()
module.spied = "module"
for each in EVENTS:
    globals()[each] = getattr(module, each)
for kind, base in zip(KINDS, BASES, strict=True):
    made = spied(kind.component, base)
    globals()[kind.catalogue] = hookimpl(lambda made=made: [made], specname=kind.catalogue)
