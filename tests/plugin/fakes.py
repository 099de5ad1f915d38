"""Small plugins that load nothing: a component of each kind, a catalogue object, and fake distributions."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr

from dpotrain import hookimpl
from dpotrain.core.pair import PreferencePair
from dpotrain.plugin.api import (
    Adapter,
    Callback,
    DatasetFormatter,
    DatasetSource,
    Exporter,
    Logger,
    Loss,
    Metric,
    ModelLoader,
    Optimizer,
    Options,
    Quantizer,
    Recognition,
    Schedule,
)
from dpotrain.plugin.api.kinds import CATALOGUES


class FakeLoader(ModelLoader):
    name = "fake-model"

    class Options(ModelLoader.Options):
        name: str = Field(description="A name.")
        dtype: Literal["float32", "bfloat16"] = Field("float32", description="A dtype.")
        trust_remote_code: bool = Field(False, description="A switch.")
        revision: str | None = Field(None, description="Something that may be none.")

    def load_tokenizer(self):
        raise NotImplementedError

    def load_model(self, request):
        raise NotImplementedError

    def fingerprint(self, source=None):
        return "fake"


class FakeQuantizer(Quantizer):
    name = "fake-4bit"

    def loading_config(self):
        return None

    def prepare(self, model):
        pass


class TrainableQuantizer(FakeQuantizer):
    name = "fake-8bit"
    trains_all_weights = True


class FakeAdapter(Adapter):
    name = "fake-lora"

    class Options(Adapter.Options):
        rank: int = Field(16, ge=1, description="A rank.")
        alpha: float = Field(32.0, gt=0, description="A scale.")
        targets: tuple[str, ...] = Field((), description="Names.")

    def attach(self, policy):
        return policy

    def reference(self, policy):
        raise NotImplementedError

    def save(self, policy, folder):
        pass

    def how_to_load(self, folder):
        return ""


class FakeSource(DatasetSource):
    name = "fake-rows"

    class Options(DatasetSource.Options):
        name: str = Field(description="A name.")
        count: int = Field(10, ge=1, description="A number of rows.")

    def splits(self):
        return ["train"]

    def load(self, split):
        raise NotImplementedError


class OtherSource(FakeSource):
    name = "other-rows"

    class Options(DatasetSource.Options):
        pattern: str = Field("*", description="A pattern.")


class FakeFormatter(DatasetFormatter):
    name = "fake-format"

    class Options(DatasetFormatter.Options):
        strip: bool = Field(True, description="A switch.")

    def recognises(self, row):
        return Recognition.NO

    def format(self, row):
        return PreferencePair("a", "b", "c")


class FakeLoss(Loss):
    name = "fake-dpo"

    class Options(Loss.Options):
        label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="A share.")

    def __call__(self, scores):
        raise NotImplementedError


class FakeIpo(FakeLoss):
    name = "fake-ipo"

    class Options(Loss.Options):
        pass


class FakeOptimizer(Optimizer):
    """Called like the one that a recipe means when it does not say."""

    name = "adamw"

    class Options(Optimizer.Options):
        betas: tuple[float, float] = Field((0.9, 0.999), description="Two numbers.")
        weight_decay: float = Field(0.0, ge=0, description="A number.")

    def build(self, weights):
        raise NotImplementedError


class OtherOptimizer(FakeOptimizer):
    name = "fake-sgd"

    class Options(Optimizer.Options):
        weight_decay: float = Field(0.0, ge=0, description="A number.")
        momentum: float = Field(0.0, ge=0, description="A number.")


class FakeSchedule(Schedule):
    name = "cosine"

    class Options(Schedule.Options):
        warmup_fraction: float = Field(0.0, ge=0, lt=1, description="A share.")

    def factor(self, step, total_steps):
        return 1.0


class FakeMetric(Metric):
    name = "fake-metric"
    measures = ("one",)

    class Options(Metric.Options):
        scale: float = Field(1.0, description="A number.")

    def __call__(self, scores):
        raise NotImplementedError


class FakeCallback(Callback):
    name = "fake-callback"

    class Options(Callback.Options):
        every: int = Field(1, ge=1, description="A number of steps.")

    @hookimpl
    def dpotrain_step_ended(self, step):
        pass


class FakeExporter(Exporter):
    name = "fake-export"

    class Options(Exporter.Options):
        to: Path = Field(Path("x"), description="A place.")

    def export(self, run):
        raise NotImplementedError


class Nested(Options):
    width: int = Field(3, ge=1, description="A width.")
    cap: float | None = Field(2.5, description="A cap that may be none.")


class FakeLogger(Logger):
    """Keeps what it hears in ``heard``."""

    name = "fake-log"

    class Options(Logger.Options):
        project: str = Field("p", description="A project.")
        token: SecretStr | None = Field(None, description="A secret.")
        nested: Nested = Field(Nested(), description="A table in a table.")
        limit: int | None = Field(5, ge=1, description="A limit; false is none.")

    def __init__(self, options):
        super().__init__(options)
        self.heard: list[Any] = []

    def start(self, run):
        self.heard.append(("start", run))

    def log(self, record):
        self.heard.append(("log", record))

    def finish(self, outcome):
        self.heard.append(("finish", outcome))


class Offers:
    """A plugin object that offers the given classes."""

    def __init__(self, name: str, *components: type) -> None:
        self.name = name
        for hook, kind in CATALOGUES.items():
            setattr(self, hook, self._giving([each for each in components if issubclass(each, kind)]))

    @staticmethod
    def _giving(components: list[type]) -> Callable[[], list[type]]:
        return hookimpl(lambda: components)


EVERYTHING = (
    FakeLoader, FakeQuantizer, TrainableQuantizer, FakeAdapter, FakeSource, OtherSource, FakeFormatter,
    FakeLoss, FakeIpo, FakeOptimizer, OtherOptimizer, FakeSchedule, FakeMetric, FakeLogger, FakeExporter,
    FakeCallback,
)  # fmt: skip


def fake_plugin(*, beside_built_ins: bool = False) -> Offers:
    """Return one plugin with everything that a recipe can select; beside the built-ins, without what they have too."""
    theirs = (FakeOptimizer, FakeSchedule) if beside_built_ins else ()
    return Offers("fakes", *(kind for kind in EVERYTHING if kind not in theirs))


#: A run of one step, for a plugin that fails in it.
DEMO_RECIPE = """\
[run]
output_dir = "{folder}/run"
cache_dir = false
[model]
use = "demo"
[data]
use = "demo"
pairs = 16
samples = 0
[loss]
use = "{loss}"
[training]
steps = 1
pairs_per_step = 4
precision = "fp32"
[optimizer]
lr = 1e-4
"""

#: A module that offers one loss; format it with the loss's name.
LOSS_MODULE = """
from dpotrain import hookimpl
from dpotrain.plugin.api import Loss


class TheLoss(Loss):
    name = "{name}"

    def __call__(self, scores):
        raise NotImplementedError


@hookimpl
def dpotrain_losses():
    return [TheLoss]
"""


#: A module with a command; it greets all but one.
COMMAND_MODULE = """
import click


@click.command(short_help="Say hello.")
@click.argument("name")
def command(name):
    from dpotrain.core.errors import RunError

    if name == "nobody":
        raise RunError("there is nobody\\ngreet somebody")
    click.echo(f"hello, {name}")
"""


def install(
    site: Path, distribution: str, version: str, *, commands: Mapping[str, str] | None = None, **modules: str
) -> None:
    """Put a distribution into a folder on ``sys.path``: its metadata, and a plugin or command for each module."""
    module_name = distribution.replace("-", "_")
    info = site / f"{module_name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = ["[dpotrain]", *(f"{name} = {module_name}_{name}" for name in modules)]
    for name, source in modules.items():
        (site / f"{module_name}_{name}.py").write_text(source)
    lines.append("[dpotrain.commands]")
    for name, source in (commands or {}).items():
        lines.append(f"{name} = {module_name}_command_{name}:command")
        (site / f"{module_name}_command_{name}.py").write_text(source)
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def forget(site: Path) -> None:
    """Drop the modules that were imported from a folder."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(site)):
            del sys.modules[name]
