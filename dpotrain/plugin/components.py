"""The kinds of component that a recipe selects by name.

A component is a class with a ``name``, an ``Options`` model that owns its recipe table, and the methods of
its kind. It is constructed with its validated options while the recipe is read, before anything heavy is
loaded, so a component imports torch, transformers and the like inside its methods, never at the top of its
module.

    class Simpo(Loss):
        name = "simpo"

        class Options(Loss.Options):
            gamma: float = Field(0.5, description="Target margin between the two rewards.")

        options: Options

        def __call__(self, scores): ...

A component object may also carry ``@hookimpl`` methods for run events; it hears them because it was selected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dpotrain.data.pair import PreferencePair
    from dpotrain.engine.memory import Trained
    from dpotrain.engine.scores import PairScores
    from dpotrain.run.records import Finished, LoggedRun, Outcome, Record


class Options(BaseModel):
    """Base of every component's options: frozen, unknown keys forbidden, every field described."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )


class Component(ABC):
    """Base of all kinds. Subclass one of the kinds below, not this class."""

    kind: ClassVar[str]
    """The kind in words, for messages: ``"loss"``, ``"model loader"``."""
    name: ClassVar[str]
    """What a recipe writes after ``use =``."""

    class Options(Options):
        """The keys of the component's recipe table; none unless a subclass adds some."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def check(self) -> None:  # noqa: B027  # nothing to check is the rule, not an omission
        """Raise a DpotrainError for whatever can be known to fail without loading anything heavy.

        Called after the recipe is read and by ``dpotrain check``: a folder that is missing, a package that
        is not installed. It must not import torch or transformers, nor use the network.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed run must find again, for a component that changes as the run goes on.

        Tensors, numbers, texts, lists and mappings with text keys; empty (as here) for a component without memory.
        Called on the main process for every checkpoint, before training goes on, so it must be quick; the tensors are
        copied. A logger's is asked for in its own thread, after the records so far.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # a component without memory has none
        """Take back what :meth:`state_dict` returned, tensors on the CPU, on every process of a resumed run.

        Called after the policy is loaded and before a logger's :meth:`Logger.start`. A tuple comes back as a list.
        """


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What the core asks a model loader for."""

    source: str | None = None
    """A hub name or folder to load instead of the loader's own (for ``reference.of``)."""
    quantization: Any = None
    """What :meth:`Quantizer.loading_config` returned, or None."""
    keep_adapter: bool = False
    """Where the source is an adapter on a base model: keep it as a trainable adapter (True), because an
    ``[adapter]`` table goes on training it, or merge it into the weights (False)."""
    device: str = "cpu"
    """Where the weights should be, as torch writes it: ``"cpu"``, ``"cuda:0"``."""


class ModelLoader(Component):
    """Brings the policy and its tokenizer; selected by ``[model]``."""

    kind = "model loader"

    @abstractmethod
    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with a pad token and, for a chat model, its chat template."""

    @abstractmethod
    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        """Return a causal language model in ``train()`` mode with dropout at zero.

        In ``eval()`` 4-bit layers may repack their weights on a CPU and lose all gradients from then on.

        A PEFT model where ``request.keep_adapter`` and the source is an adapter.
        """

    def blueprint(self, request: LoadRequest) -> PreTrainedModel | None:
        """Return what :meth:`load_model` would, not quantized, on the meta device: shapes and dtypes, no weights.

        ``dpotrain plan`` counts memory on it. It is quick and reads configuration files at most; None (as here)
        says that the loader cannot tell.
        """
        return None

    @abstractmethod
    def fingerprint(self, source: str | None = None) -> str:
        """Return a text that changes whenever the loaded weights would.

        For a folder its files' sizes and hashes, for a hub name its resolved commit. It is part of the key of
        stored reference log-probs.
        """


class Quantizer(Component):
    """Loads the weights in fewer bits; selected by ``[quantizer]``."""

    kind = "quantizer"

    trains_all_weights: ClassVar[bool] = False
    """Whether the quantized weights themselves can be trained. Where not, a recipe needs an ``[adapter]``."""

    @abstractmethod
    def loading_config(self) -> Any:
        """Return what the model loader passes on to loading (for transformers, a quantization config)."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> None:
        """Make the loaded model trainable around its frozen weights, in place.

        Raise a RunError if nothing was quantized after all.
        """

    def bits(self, model: PreTrainedModel) -> Mapping[str, float] | None:
        """Return the bits that a weight takes, scales included, by the name of each parameter that is quantized.

        ``model`` is on the meta device (see :meth:`ModelLoader.blueprint`) and is not changed; None (as here) says
        that the quantizer cannot tell.
        """
        return None


class Adapter(Component):
    """Says what is trained, how the reference is reached, and what is saved; selected by ``[adapter]``.

    Without an ``[adapter]`` table the engine trains all weights.
    """

    kind = "adapter"

    @property
    def starts_as_base(self) -> bool:
        """Whether a fresh adapter computes exactly what the model does without it, whatever its options.

        Where so, stored reference log-probs are shared between adapters.
        """
        return False

    @abstractmethod
    def attach(self, policy: PreTrainedModel) -> PreTrainedModel:
        """Wrap the policy and set ``requires_grad`` on exactly what is to be trained, in float32.

        A policy that arrives with an adapter (see ``LoadRequest.keep_adapter``) is trained on from it, and
        its initial state is kept for :meth:`reference`. ``dpotrain plan`` calls this on a model on the
        meta device, and as torch's default device, where tensors have shapes and no numbers.
        """

    @abstractmethod
    def reference(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context inside which the policy computes what it computed right after :meth:`attach`."""

    @abstractmethod
    def state(self, policy: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the trained tensors by name, for a checkpoint (no copies)."""

    @abstractmethod
    def load_state(self, policy: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
        """Put a checkpoint's tensors back in place; raise a RunError for missing or surplus names."""

    @abstractmethod
    def save(self, policy: PreTrainedModel, folder: Path) -> None:
        """Write the result a user takes away into an existing, empty folder (without the tokenizer)."""

    @abstractmethod
    def how_to_load(self, folder: Path) -> str:
        """Return a line or two of Python that loads what :meth:`save` wrote, for the closing summary."""


class Rows(Protocol):
    """Rows of a data set: a length, random access, and a fingerprint of the content.

    The fingerprint changes whenever a row does: tokenized rows are found again by it.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def columns(self) -> list[str]: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class DatasetSource(Component):
    """Brings rows; selected by ``[data]``, whose remaining keys are its options."""

    kind = "dataset source"

    @abstractmethod
    def splits(self) -> list[str]:
        """Return the names of the splits there are, for messages and for ``data.eval_split``."""

    @abstractmethod
    def load(self, split: str) -> Rows:
        """Return the rows of one split; raise a DataError that says what was looked for and what is there."""


class Recognition(IntEnum):
    """How sure a formatter is that a row is of its shape."""

    NO = 0
    SHAPE = 1
    """The columns and their types fit; another shape may fit as well and be more specific."""
    CERTAIN = 2
    """Something in the row can hardly mean anything else (a marker text, a telling column)."""


class DatasetFormatter(Component):
    """Turns a row into a :class:`PreferencePair`; selected by ``data.format``, or found by ``"auto"``."""

    kind = "dataset formatter"
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that the formatter reads, under the names that ``[data.columns]`` maps to."""

    @abstractmethod
    def recognises(self, row: Mapping[str, Any]) -> Recognition:
        """Say how sure the formatter is of this row.

        Never raise; a row with None or empty values is judged by the rest.
        """

    @abstractmethod
    def format(self, row: Mapping[str, Any]) -> PreferencePair:
        """Return the pair, or raise :class:`dpotrain.data.pair.UnusableRow` with a short reason."""


class Loss(Component):
    """Turns the scores of pairs into a loss a pair; selected by ``[loss]``."""

    kind = "loss"

    needs_reference: ClassVar[bool] = True
    """Whether ``scores.reference_*`` are used; where not, no reference is computed."""

    class Options(Component.Options):
        """Every loss has a beta: the core needs it for rewards and margins."""

        beta: float = Field(0.1, gt=0, description="Strength of the pull towards the reference.")

    options: Options

    @abstractmethod
    def __call__(self, scores: PairScores) -> torch.Tensor:
        """Return the loss of every pair, float32, shape (pairs,).

        A pair's loss may depend on its own scores only: which pairs share a micro-batch is the engine's
        business.
        """

    def first_loss(self) -> float | None:
        """Return the loss that every pair has while policy and reference are the same model.

        None where there is no such number. The run checks it before the first update.
        """
        return None


class Optimizer(Component):
    """Turns gradients into updates of the weights; selected by ``[optimizer]``."""

    kind = "optimizer"

    smaller: ClassVar[str | None] = None
    """Name of an optimizer with the same options that keeps a smaller state, which ``dpotrain plan`` proposes."""

    class Options(Component.Options):
        """Every optimizer has a learning rate: the core multiplies it by what the schedule says."""

        lr: float = Field(gt=0, description="Peak learning rate.")

    options: Options

    @abstractmethod
    def build(self, weights: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer over all of ``weights``: what is trained, by its name in the policy.

        Before every step the engine sets ``lr`` of each parameter group to what it was when this returned, times
        the schedule's factor; gradients are clipped by then. The optimizer's ``state_dict`` goes into checkpoints
        and has to hold everything that the next step depends on, as tensors and plain values.
        """

    def state_bytes(self, weights: Sequence[Trained]) -> int:
        """Return the bytes of the optimizer's state, of which micro-batches have to leave room.

        As here, two moments in the dtype of each weight, unless a subclass knows better.
        """
        return sum(2 * weight.bytes for weight in weights)


class Schedule(Component):
    """Moves the learning rate over the run; selected by ``[schedule]``."""

    kind = "schedule"

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Return what the peak learning rate is multiplied by in step ``step``, 1 for the first update.

        A finite number that is not negative, and a function of nothing but its arguments and the options: a
        resumed run asks again.
        """


Measured: TypeAlias = "torch.Tensor | tuple[torch.Tensor, torch.Tensor]"


class Metric(Component):
    """Adds numbers to the records, computed from the scores of pairs; selected by a ``[[metrics]]`` table."""

    kind = "metric"

    @property
    @abstractmethod
    def measures(self) -> tuple[str, ...]:
        """The names of its numbers. In records they stand behind the name of the plugin: ``length/margins``."""

    @abstractmethod
    def __call__(self, scores: PairScores) -> Mapping[str, Measured]:
        """Return every measure by name: a tensor of shape (pairs,), of which a record has the mean over its pairs.

        Or two such tensors, values and weights (or a mask), for a mean over some of the pairs; what no pair weighs
        in is left out of a record. A value may depend on its own pair only, as a loss may. Called without gradients,
        in training after the backward pass and in evaluation; where the loss needs no reference,
        ``scores.reference_*`` are zero. A metric that raises ends the run.
        """


class Logger(Component):
    """Takes the run's records somewhere; selected by a ``[[loggers]]`` table. Runs on the main process only.

    Its methods, those that hear run events among them, are called one after the other in a thread of the logger's own,
    so it may be slow: no step waits for it. One that raises, or does not return for ``logging.patience`` seconds, is
    dropped with a message; the run goes on, its metrics file stays whole, and ``dpotrain sync`` replays it.

    What it is handed are copies. It must not draw from torch's global random generator, which it shares with the run.
    """

    kind = "logger"

    @abstractmethod
    def start(self, run: LoggedRun) -> None:
        """Open the log. ``run.config`` is the resolved recipe without secrets; never log prompts.

        ``dpotrain sync`` calls this for a run that is over, perhaps once more in the same folder: then
        :meth:`log` takes every record from the first, :meth:`finish` how it ended, and no run event is heard.
        """

    @abstractmethod
    def log(self, record: Record) -> None:
        """Take one record: ``record.kind`` is "train" or "eval", ``record.metrics`` a flat mapping."""

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """Close the log. ``outcome.status`` says whether the run ended well."""


class Exporter(Component):
    """Makes something of a finished run's result; selected by an ``[[exporters]]`` table. Main process only.

    Exporters run one after the other, after ``final/`` and ``summary.json`` are written and the policy has left memory.
    One that raises takes nothing away: the others run, ``final/`` stays, and ``--resume`` runs again what failed.
    """

    kind = "exporter"

    needs_adapter: ClassVar[bool] = False
    """Whether it makes something of an adapter; a recipe that trains all weights is then refused."""

    @abstractmethod
    def export(self, run: Finished) -> str:
        """Make the result, and return where it is, for the person: a folder, an address.

        Write aside and rename, so that what is there is whole (``dpotrain.run.atomic``); leave ``run.final`` as it is.
        """


#: Which hook offers which kind, and the recipe table that selects it.
CATALOGUES: dict[str, type[Component]] = {
    "dpotrain_model_loaders": ModelLoader,
    "dpotrain_quantizers": Quantizer,
    "dpotrain_adapters": Adapter,
    "dpotrain_dataset_sources": DatasetSource,
    "dpotrain_dataset_formatters": DatasetFormatter,
    "dpotrain_losses": Loss,
    "dpotrain_optimizers": Optimizer,
    "dpotrain_schedules": Schedule,
    "dpotrain_metrics": Metric,
    "dpotrain_loggers": Logger,
    "dpotrain_exporters": Exporter,
}
