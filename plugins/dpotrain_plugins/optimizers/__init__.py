"""The built-in optimizers, one module for each family: AdamW, Adafactor, Lion and Muon."""

from __future__ import annotations

from dpotrain import hookimpl
from dpotrain.plugin.api import Optimizer
from dpotrain_plugins.optimizers.adafactor import Adafactor
from dpotrain_plugins.optimizers.adamw import AdamW, AdamW8bit, PagedAdamW8bit
from dpotrain_plugins.optimizers.lion import Lion
from dpotrain_plugins.optimizers.muon import Muon

dpotrain_interface = 2


@hookimpl
def dpotrain_optimizers() -> list[type[Optimizer]]:
    return [AdamW, AdamW8bit, PagedAdamW8bit, Adafactor, Lion, Muon]
