"""A component whose package is missing says so before the run, with the command that installs it."""

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import component as packages
from dpotrain_plugins import liger
from dpotrain_plugins.liger import LigerLoader
from dpotrain_plugins.loggers.mlflow import MLflowLogger
from dpotrain_plugins.loggers.tensorboard import TensorBoardLogger
from dpotrain_plugins.loggers.trackio import TrackioLogger
from dpotrain_plugins.loggers.wandb import WandbLogger
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from dpotrain_plugins.quantizers.torchao import TorchAoInt8


@pytest.mark.parametrize(
    ("kind", "options", "requirement"),
    [
        (WandbLogger, {}, "wandb"),
        (TensorBoardLogger, {}, '"dpotrain[tensorboard]"'),
        (MLflowLogger, {}, '"dpotrain[mlflow]"'),
        (TrackioLogger, {}, '"dpotrain[trackio]"'),
        (Bnb4bit, {}, "bitsandbytes"),
        (Bnb8bit, {}, "bitsandbytes"),
        (TorchAoInt8, {}, '"dpotrain[torchao]"'),
        (LigerLoader, {"name": "org/model"}, '"dpotrain[liger]"'),
    ],
)
def test_the_component_and_what_installs_its_package_are_named(monkeypatch, kind, options, requirement):
    monkeypatch.setattr(liger, "_driver_found", lambda: True)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        kind(kind.Options(**options)).check()
    assert str(caught.value).startswith(f'the "{kind.name}" {kind.kind} needs the package ')
    assert str(caught.value).endswith(f", which is not installed\ninstall it: pip install {requirement}")
