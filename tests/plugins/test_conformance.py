"""Every built-in component runs through the suite of its kind, as a third party's does."""

# ruff: noqa: RUF012  # nobody changes what a suite is told
import importlib.util
from importlib.metadata import entry_points

import pytest

from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.commands import GROUP
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing import (
    AdapterConformance,
    CommandConformance,
    ComponentConformance,
    DatasetFormatterConformance,
    DatasetSourceConformance,
    ExporterConformance,
    LoggerConformance,
    LossConformance,
    MetricConformance,
    ModelLoaderConformance,
    OptimizerConformance,
    QuantizerConformance,
    ScheduleConformance,
)
from dpotrain.testing.conformance import suite_of
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.demo.source import DemoSource
from dpotrain_plugins.formatters import (
    AlpacaFormatter,
    ConversationalFormatter,
    HHFormatter,
    ImplicitPromptFormatter,
    QuestionFormatter,
    ShareGPTFormatter,
    StandardFormatter,
)
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from dpotrain_plugins.hub import Hub
from dpotrain_plugins.loggers.mlflow import MLflowLogger
from dpotrain_plugins.loggers.tensorboard import TensorBoardLogger
from dpotrain_plugins.loggers.trackio import TrackioLogger
from dpotrain_plugins.loggers.wandb import WandbLogger
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses import Dpo, Hinge, Ipo
from dpotrain_plugins.merge.exporter import Merge
from dpotrain_plugins.metrics.length import Length
from dpotrain_plugins.optimizers import AdamW, AdamW8bit
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from dpotrain_plugins.quantizers.torchao import TorchAoInt8
from dpotrain_plugins.schedules import Constant, Cosine, Linear
from dpotrain_plugins.transformers_loader import TransformersLoader

#: What cannot run here, and where it is tested instead.
ELSEWHERE = {"liger": "needs an NVIDIA GPU; tests/plugins/test_liger.py"}


class TestDpo(LossConformance):
    component = Dpo
    options = {"label_smoothing": 0.1}


class TestIpo(LossConformance):
    component = Ipo


class TestHinge(LossConformance):
    component = Hinge
    options = {"beta": 0.05}


class TestLora(AdapterConformance):
    component = Lora
    options = {"rank": 4}


class TestLoraWithEverything(AdapterConformance):
    component = Lora
    options = {"rank": 4, "dropout": 0.1, "dora": True, "rslora": True, "modules_to_save": ["norm"]}


class TestMergedLora(AdapterConformance):
    component = Lora
    options = {"rank": 4, "merge": True}


class TestBnb4bit(QuantizerConformance):
    component = Bnb4bit


class TestBnb8bit(QuantizerConformance):
    component = Bnb8bit


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
class TestTorchAoInt8(QuantizerConformance):
    component = TorchAoInt8


class TestTransformersLoader(ModelLoaderConformance):
    component = TransformersLoader

    @pytest.fixture
    def table(self, dpotrain_model):
        return {"name": str(dpotrain_model), "dtype": "float32"}


class TestDemoLoader(ModelLoaderConformance):
    component = DemoLoader


class TestHFDatasetsSource(DatasetSourceConformance):
    component = HFDatasetsSource

    @pytest.fixture
    def table(self, dpotrain_data):
        return {"name": str(dpotrain_data)}


class TestDemoSource(DatasetSourceConformance):
    component = DemoSource
    options = {"pairs": 40, "samples": 2}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


class TestStandard(DatasetFormatterConformance):
    component = StandardFormatter
    rows = [
        {
            "prompt": "Some tea, please.",
            "chosen": " Certainly, with pleasure.",
            "rejected": " Get it yourself.",
        }
    ]


class TestConversational(DatasetFormatterConformance):
    component = ConversationalFormatter
    rows = [
        {
            "prompt": [user("Some tea, please.")],
            "chosen": [assistant("Certainly, with pleasure.")],
            "rejected": [assistant("Get it yourself.")],
        },
        {
            "prompt": "Some tea, please.",
            "chosen": [user("Some tea, please."), assistant("Certainly, with pleasure.")],
            "rejected": [user("Some tea, please."), assistant("Get it yourself.")],
            "system": "You are a waiter in a hurry.",
        },
    ]


class TestImplicitPrompt(DatasetFormatterConformance):
    component = ImplicitPromptFormatter
    rows = [
        {
            "chosen": [user("Some tea, please."), assistant("Certainly, with pleasure.")],
            "rejected": [user("Some tea, please."), assistant("Get it yourself.")],
        }
    ]


class TestHH(DatasetFormatterConformance):
    component = HHFormatter
    rows = [
        {
            "chosen": "\n\nHuman: Some tea, please.\n\nAssistant: Certainly, with pleasure.",
            "rejected": "\n\nHuman: Some tea, please.\n\nAssistant: Get it yourself.",
        }
    ]


class TestShareGPT(DatasetFormatterConformance):
    component = ShareGPTFormatter
    rows = [
        {
            "conversations": [{"from": "human", "value": "Some tea, please."}],
            "chosen": {"from": "gpt", "value": "Certainly, with pleasure."},
            "rejected": {"from": "gpt", "value": "Get it yourself."},
        }
    ]


class TestAlpaca(DatasetFormatterConformance):
    component = AlpacaFormatter
    rows = [
        {
            "instruction": "Bring what is asked for.",
            "input": "Some tea, please.",
            "chosen": "Certainly, with pleasure.",
            "rejected": "Get it yourself.",
        }
    ]


class TestQuestion(DatasetFormatterConformance):
    component = QuestionFormatter
    rows = [
        {
            "system": "You are a waiter in a hurry.",
            "question": "Some tea, please.",
            "chosen": "Certainly, with pleasure.",
            "rejected": "Get it yourself.",
        }
    ]


class TestAdamW(OptimizerConformance):
    component = AdamW
    options = {"lr": 1e-2, "weight_decay": 0.1}


class TestAdamW8bit(OptimizerConformance):
    component = AdamW8bit
    options = {"lr": 1e-2, "betas": [0.8, 0.95]}


class TestConstant(ScheduleConformance):
    component = Constant
    options = {"warmup_fraction": 0.5}


class TestLinear(ScheduleConformance):
    component = Linear
    options = {"warmup_steps": 3, "min_lr_fraction": 0.1}


class TestCosine(ScheduleConformance):
    component = Cosine


class TestLength(MetricConformance):
    component = Length


class TestMerge(ExporterConformance):
    component = Merge
    options = {"dtype": "float32"}

    def recipe(self, table):
        return f'adapter = {{ use = "lora", rank = 2 }}\n{super().recipe(table)}'


class TestMergeCommand(CommandConformance):
    command = "merge"
    wrong = ("no/such/adapter", "merged")


class TestHub(ExporterConformance):
    component = Hub
    options = {"repo": "you/tiny", "mode": "offline"}


class TestWandb(LoggerConformance):
    component = WandbLogger
    options = {"mode": "offline", "tags": ["a", "b"]}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")
class TestTensorBoard(LoggerConformance):
    component = TensorBoardLogger


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
class TestMLflow(LoggerConformance):
    component = MLflowLogger
    options = {"tags": {"team": "a"}}


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="needs trackio")
class TestTrackio(LoggerConformance):
    component = TrackioLogger
    options = {"project": "conformance"}


def test_every_built_in_component_runs_through_the_suite_of_its_kind():
    suites = [each for each in globals().values() if isinstance(each, type)]
    tested = {each.component: each for each in suites if "component" in vars(each)}
    for plugin in PluginManager.from_entry_points().plugins:
        for component in plugin.components if plugin.distribution == "dpotrain" else ():
            if component.name not in ELSEWHERE:
                assert component in tested, f"{component.kind} {component.name} has no suite in this file"
                assert issubclass(tested[component], suite_of(component))


def test_every_built_in_command_runs_through_the_suite_of_commands():
    suites = [each for each in globals().values() if isinstance(each, type)]
    tested = {each.command for each in suites if "command" in vars(each)}
    assert tested == {point.name for point in entry_points(group=GROUP) if point.dist.name == "dpotrain"}


def test_there_is_a_suite_for_every_kind():
    for kind in CATALOGUES.values():
        made = type("Made", (kind,), {"name": "made"})
        assert issubclass(suite_of(made), ComponentConformance)
        assert suite_of(made).__name__ == f"{kind.__name__}Conformance"
