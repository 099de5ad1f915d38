"""Every built-in component runs through the suite of its kind, as a third party's does."""

# ruff: noqa: RUF012  # nobody changes what a suite is told
import importlib.util
from importlib.metadata import entry_points

import pytest

from dpotrain import testing
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.commands import GROUP
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing.conformance import suite_of
from dpotrain_plugins import formatters
from dpotrain_plugins.callbacks.early_stopping import EarlyStopping
from dpotrain_plugins.demo.loader import DemoLoader
from dpotrain_plugins.demo.source import DemoSource
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from dpotrain_plugins.hub import Hub
from dpotrain_plugins.layers import Layers
from dpotrain_plugins.loggers.mlflow import MLflowLogger
from dpotrain_plugins.loggers.tensorboard import TensorBoardLogger
from dpotrain_plugins.loggers.trackio import TrackioLogger
from dpotrain_plugins.loggers.wandb import WandbLogger
from dpotrain_plugins.lora import Lora
from dpotrain_plugins.losses import (
    AlphaPo,
    Aot,
    AotUnpaired,
    ApoDown,
    ApoZero,
    Bco,
    BetaDpo,
    CalDpo,
    Cpo,
    DiscoPop,
    Dpo,
    DpoNorm,
    Dpop,
    DpoShift,
    Exo,
    Hinge,
    Ipo,
    Mix,
    Nca,
    Odpo,
    Orpo,
    RDpo,
    Robust,
    Sft,
    Simper,
    Simpo,
    Slic,
    Sppo,
)
from dpotrain_plugins.merge.exporter import Merge
from dpotrain_plugins.metrics.length import Length
from dpotrain_plugins.metrics.tokens import Tokens
from dpotrain_plugins.optimizers import Adafactor, AdamW, AdamW8bit, Lion, Muon, PagedAdamW8bit
from dpotrain_plugins.quantizers.bitsandbytes import Bnb4bit, Bnb8bit
from dpotrain_plugins.quantizers.torchao import TorchAoInt8
from dpotrain_plugins.schedules import Constant, Cosine, InverseSqrt, Linear, WarmupStableDecay
from dpotrain_plugins.transformers_loader import TransformersLoader

#: What cannot run here, and where it is tested instead.
ELSEWHERE = {"liger": "needs an NVIDIA GPU; tests/plugins/test_liger.py"}


def suite(component, **options):
    """Return the suite of a component's kind, for a component with these options."""
    return type(component.__name__, (suite_of(component),), {"component": component, "options": options})


#: For all but one loss of a family: their numbers are compared with their formulas anyway.
soak = pytest.mark.soak


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


TestDpo = suite(Dpo, label_smoothing=0.1)
TestIpo = soak(suite(Ipo))
TestHinge = soak(suite(Hinge, beta=0.05))
TestRobust = soak(suite(Robust, label_smoothing=0.2))
TestExo = soak(suite(Exo, label_smoothing=0.01))
TestDpoNorm = soak(suite(DpoNorm, beta=2.0))
TestDpop = soak(suite(Dpop, penalty=5))
TestOdpo = suite(Odpo, alpha=0.5)
TestRDpo = soak(suite(RDpo, alpha=0.1))
TestDpoShift = soak(suite(DpoShift, rejected_share=0.5, last_rejected_share=0.95))
TestNca = soak(suite(Nca))
TestBco = soak(suite(Bco))
TestBcoOfPairs = soak(suite(Bco, running_mean=False))
TestAot = soak(suite(Aot))
TestAotUnpaired = soak(suite(AotUnpaired, label_smoothing=0.1))
TestBetaDpo = soak(suite(BetaDpo, keep=1.0))
TestSppo = soak(suite(Sppo, beta=0.1))
TestCalDpo = soak(suite(CalDpo, calibration_weight=0.5))
TestApoZero = soak(suite(ApoZero))
TestApoDown = soak(suite(ApoDown))
TestDiscoPop = soak(suite(DiscoPop, tau=0.1))
TestSimpo = soak(suite(Simpo, gamma=1.0))
TestAlphaPo = soak(suite(AlphaPo, gamma_beta_ratio=0.2, alpha=-0.5))
TestSimper = soak(suite(Simper))
TestCpo = soak(suite(Cpo, nll="mean"))
TestOrpo = soak(suite(Orpo, weight=0.25))
TestSlic = soak(suite(Slic, delta=0.5))
TestMix = suite(Mix, terms=[{"use": "dpo", "weight": 0.5}, {"use": "ipo", "beta": 0.2}])
TestLora = suite(Lora, rank=4)
TestLoraWithEverything = soak(
    suite(Lora, rank=4, dropout=0.1, dora=True, rslora=True, modules_to_save=["norm"])
)
TestMergedLora = soak(suite(Lora, rank=4, merge=True))
TestLayers = suite(Layers, last=1, match=["*.norm.weight"])
TestNamedWeights = soak(suite(Layers, match=["re:.*mlp.*", "model.embed_tokens.weight"]))
TestBnb4bit = suite(Bnb4bit)
TestBnb8bit = soak(suite(Bnb8bit))
TestTorchAoInt8 = needs("torchao")(suite(TorchAoInt8))
TestDemoLoader = suite(DemoLoader)
TestDemoSource = suite(DemoSource, pairs=40, samples=2)
TestAdamW = suite(AdamW, lr=1e-2, weight_decay=0.1)
TestAdamWStateDtype = suite(AdamW, lr=1e-2, state_dtype="bfloat16")
TestAdamW8bit = soak(suite(AdamW8bit, lr=1e-2, betas=[0.8, 0.95]))
TestPagedAdamW8bit = soak(suite(PagedAdamW8bit, lr=1e-2))
TestAdafactor = soak(suite(Adafactor, lr=1e-2, weight_decay=0.1))
TestLion = soak(suite(Lion, lr=1e-3, betas=[0.95, 0.98]))
TestMuon = soak(suite(Muon, lr=1e-2, groups=[{"match": "*norm*", "lr": 1e-3}]))
TestConstant = soak(suite(Constant, warmup_fraction=0.5))
TestLinear = soak(suite(Linear, warmup_steps=3, min_lr_fraction=0.1))
TestCosine = soak(suite(Cosine))
TestWarmupStableDecay = soak(suite(WarmupStableDecay, decay_fraction=0.5, shape="1-sqrt"))
TestInverseSqrt = soak(suite(InverseSqrt, warmup_steps=1, timescale=20))
TestLength = suite(Length)
TestTokens = soak(suite(Tokens, entropy=True))
TestEarlyStopping = suite(EarlyStopping, patience=2, metric="rewards/margins")
TestHub = suite(Hub, repo="you/tiny", mode="offline")
TestWandb = suite(WandbLogger, mode="offline", tags=["a", "b"])
TestTensorBoard = needs("tensorboard")(suite(TensorBoardLogger))
TestMLflow = needs("mlflow")(suite(MLflowLogger, tags={"team": "a"}))
TestTrackio = needs("trackio")(suite(TrackioLogger, project="conformance"))


class TestSft(testing.LossConformance):
    component = Sft
    moved_by = ("policy_chosen",)


class TestTransformersLoader(testing.ModelLoaderConformance):
    component = TransformersLoader

    @pytest.fixture
    def table(self, dpotrain_model):
        return {"name": str(dpotrain_model), "dtype": "float32"}


class TestHFDatasetsSource(testing.DatasetSourceConformance):
    component = HFDatasetsSource

    @pytest.fixture
    def table(self, dpotrain_data):
        return {"name": str(dpotrain_data)}


ASK, YES, NO = "Some tea, please.", "Certainly, with pleasure.", "Get it yourself."
HURRY = "You are a waiter in a hurry."
CHAT = [
    {"role": "user", "content": ASK},
    {"role": "assistant", "content": YES},
    {"role": "assistant", "content": NO},
]


class TestStandard(testing.DatasetFormatterConformance):
    component = formatters.StandardFormatter
    rows = [{"prompt": ASK, "chosen": f" {YES}", "rejected": f" {NO}"}]


class TestConversational(testing.DatasetFormatterConformance):
    component = formatters.ConversationalFormatter
    rows = [
        {"prompt": CHAT[:1], "chosen": CHAT[1:2], "rejected": CHAT[2:]},
        {"prompt": ASK, "chosen": CHAT[:2], "rejected": CHAT[::2], "system": HURRY},
    ]


class TestImplicitPrompt(testing.DatasetFormatterConformance):
    component = formatters.ImplicitPromptFormatter
    rows = [{"chosen": CHAT[:2], "rejected": CHAT[::2]}]


class TestHH(testing.DatasetFormatterConformance):
    component = formatters.HHFormatter
    rows = [
        {
            key: f"\n\nHuman: {ASK}\n\nAssistant: {said}"
            for key, said in {"chosen": YES, "rejected": NO}.items()
        }
    ]


class TestShareGPT(testing.DatasetFormatterConformance):
    component = formatters.ShareGPTFormatter
    rows = [
        {
            "conversations": [{"from": "human", "value": ASK}],
            "chosen": {"from": "gpt", "value": YES},
            "rejected": {"from": "gpt", "value": NO},
        }
    ]


class TestAlpaca(testing.DatasetFormatterConformance):
    component = formatters.AlpacaFormatter
    rows = [{"instruction": "Bring what is asked for.", "input": ASK, "chosen": YES, "rejected": NO}]


class TestQuestion(testing.DatasetFormatterConformance):
    component = formatters.QuestionFormatter
    rows = [{"system": HURRY, "question": ASK, "chosen": YES, "rejected": NO}]


class TestOpenAI(testing.DatasetFormatterConformance):
    component = formatters.OpenAIFormatter
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": ASK}]},
            "preferred_output": [{"role": "assistant", "content": YES}],
            "non_preferred_output": [{"role": "assistant", "content": NO}],
        }
    ]


class TestRanked(testing.DatasetFormatterConformance):
    component = formatters.RankedFormatter
    options = {"pairs": "all"}
    rows = [{"prompt": ASK, "answers": [{"answer": YES, "rank": 1}, {"answer": NO, "rank": 2}]}]


class TestMerge(testing.ExporterConformance):
    component = Merge
    options = {"dtype": "float32"}

    def recipe(self, table):
        return f'adapter = {{ use = "lora", rank = 2 }}\n{super().recipe(table)}'


class TestMergeCommand(testing.CommandConformance):
    command = "merge"
    wrong = ("no/such/adapter", "merged")


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
        assert issubclass(suite_of(made), testing.ComponentConformance)
        assert suite_of(made).__name__ == f"{kind.__name__}Conformance"
