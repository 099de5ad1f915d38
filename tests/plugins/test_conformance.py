"""Every built-in component runs through the suite of its kind, as a third party's does."""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.plugin.api import component as packages
from dpotrain.plugin.api.kinds import CATALOGUES
from dpotrain.plugin.runtime.commands import GROUP
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing import AdapterConformance, CommandConformance, ComponentConformance
from dpotrain.testing.conformance import suite_of
from dpotrain_plugins.lora import Lora

BUILT_IN = [
    plugin for plugin in PluginManager.from_entry_points().plugins if plugin.distribution == "dpotrain"
]

#: What cannot run here, and where it is tested instead.
ELSEWHERE = {"liger": "needs an NVIDIA GPU; tests/plugins/test_liger.py"}

#: Modules without which a component's suite is skipped.
NEEDS = {"torchao-int8": "torchao", "tensorboard": "tensorboard", "mlflow": "mlflow", "trackio": "trackio"}

#: Keys of recipe tables, where they are others than the defaults.
OPTIONS = {
    "loss dpo": {"label_smoothing": 0.1},
    "loss hinge": {"beta": 0.05},
    "adapter lora": {"rank": 4},
    "dataset source demo": {"pairs": 40, "samples": 2},
    "optimizer adamw": {"lr": 1e-2, "weight_decay": 0.1},
    "optimizer adamw-8bit": {"lr": 1e-2, "betas": [0.8, 0.95]},
    "schedule constant": {"warmup_fraction": 0.5},
    "schedule linear": {"warmup_steps": 3, "min_lr_fraction": 0.1},
    "exporter merge": {"dtype": "float32"},
    "exporter hub": {"repo": "you/tiny", "mode": "offline"},
    "logger wandb": {"mode": "offline", "tags": ["a", "b"]},
    "logger mlflow": {"tags": {"team": "a"}},
    "logger trackio": {"project": "conformance"},
}

ASKED, GOOD, BAD = "Some tea, please.", "Certainly, with pleasure.", "Get it yourself."
USER = {"role": "user", "content": ASKED}
SYSTEM = {"system": "You are a waiter in a hurry."}
ANSWERS = {"chosen": GOOD, "rejected": BAD}
MESSAGES = {key: [{"role": "assistant", "content": text}] for key, text in ANSWERS.items()}
CONVERSATIONS = {key: [USER, *messages] for key, messages in MESSAGES.items()}

#: Rows that the formatters read.
ROWS = {
    "standard": [{"prompt": ASKED, "chosen": f" {GOOD}", "rejected": f" {BAD}"}],
    "conversational": [{"prompt": [USER], **MESSAGES}, {"prompt": ASKED, **CONVERSATIONS, **SYSTEM}],
    "implicit-prompt": [CONVERSATIONS],
    "hh": [{key: f"\n\nHuman: {ASKED}\n\nAssistant: {text}" for key, text in ANSWERS.items()}],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": ASKED}],
            **{key: {"from": "gpt", "value": text} for key, text in ANSWERS.items()},
        }
    ],
    "alpaca": [{"instruction": "Bring what is asked for.", "input": ASKED, **ANSWERS}],
    "question": [{"question": ASKED, **ANSWERS, **SYSTEM}],
}


class OfModel:
    @pytest.fixture
    def table(self, dpotrain_model):
        return {"name": str(dpotrain_model), "dtype": "float32"}


class OfData:
    @pytest.fixture
    def table(self, dpotrain_data):
        return {"name": str(dpotrain_data)}


class OfAdapter:
    def recipe(self, table):
        return f'adapter = {{ use = "lora", rank = 2 }}\n{super().recipe(table)}'


MORE = {
    "model loader transformers": OfModel,
    "dataset source hf-datasets": OfData,
    "exporter merge": OfAdapter,
}

for component in (component for plugin in BUILT_IN for component in plugin.components):
    key, title = f"{component.kind} {component.name}", f"Test{component.__name__}"
    if component.name in ELSEWHERE:
        continue
    told = {"component": component, "options": OPTIONS.get(key, {}), "rows": ROWS.get(component.name)}
    made = type(title, (*filter(None, [MORE.get(key)]), suite_of(component)), told)
    missing = importlib.util.find_spec(NEEDS.get(component.name, "pytest")) is None
    globals()[title] = pytest.mark.skipif(missing, reason=f"needs {NEEDS.get(component.name)}")(made)
del made


class TestLoraWithEverything(AdapterConformance):
    component = Lora
    options = {"rank": 4, "dropout": 0.1, "dora": True, "rslora": True, "modules_to_save": ["norm"]}  # noqa: RUF012


class TestMergedLora(AdapterConformance):
    component = Lora
    options = {"rank": 4, "merge": True}  # noqa: RUF012


class TestMergeCommand(CommandConformance):
    command = "merge"
    wrong = ("no/such/adapter", "merged")


def test_every_built_in_plugin_loads_so_that_its_components_are_tested():
    assert BUILT_IN
    assert not [plugin.reason for plugin in BUILT_IN if plugin.failed]


@pytest.mark.parametrize(
    ("name", "package", "wanted"),
    [
        ("bnb-4bit", "bitsandbytes", "bitsandbytes"),
        ("bnb-8bit", "bitsandbytes", "bitsandbytes"),
        ("torchao-int8", "torchao", '"dpotrain[torchao]"'),
        ("wandb", "wandb", "wandb"),
        ("tensorboard", "tensorboard", '"dpotrain[tensorboard]"'),
        ("mlflow", "mlflow", '"dpotrain[mlflow]"'),
        ("trackio", "trackio", '"dpotrain[trackio]"'),
    ],
)
def test_a_missing_package_is_found_before_a_run_with_what_installs_it(monkeypatch, name, package, wanted):
    (kind,) = (each for plugin in BUILT_IN for each in plugin.components if each.name == name)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as error:
        kind(kind.Options()).check()
    assert str(error.value) == (
        f'the "{name}" {kind.kind} needs the package {package}, which is not installed\n'
        f"install it: pip install {wanted}"
    )


def test_every_built_in_command_runs_through_the_suite_of_commands():
    suites = [each for each in globals().values() if isinstance(each, type)]
    tested = {each.command for each in suites if "command" in vars(each)}
    assert tested == {point.name for point in entry_points(group=GROUP) if point.dist.name == "dpotrain"}


def test_there_is_a_suite_for_every_kind():
    for kind in CATALOGUES.values():
        made = type("Made", (kind,), {"name": "made"})
        assert issubclass(suite_of(made), ComponentConformance)
        assert suite_of(made).__name__ == f"{kind.__name__}Conformance"
