"""The records of a run, which metrics file, loggers, progress view and plugins receive."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dpotrain.core.declared import PairColumns
from dpotrain.core.own_metrics import OWN_METRICS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

C = TypeVar("C")

Kind = Literal["train", "eval"]
#: How a run ended; "interrupted" by a second Ctrl-C, which saves nothing.
Status = Literal["finished", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class Record:
    """One line of ``metrics.jsonl``: means over all pairs since the last line, across all ranks."""

    kind: Kind
    step: int
    metrics: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the line's object: kind and step first, then the metrics in order."""
        return {"kind": self.kind, "step": self.step, **self.metrics}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step, as the training loop yields it."""

    step: int
    """1 for the first update."""
    total_steps: int
    epoch: float
    """Passes over the training pairs so far, 1.0 at the end of the first."""
    metrics: Mapping[str, float]
    """Of this step alone, by the names that train records have; ``epoch`` is beside it."""
    pairs: int
    tokens: int
    """Real tokens this step ran through the policy, every prompt once, over all ranks."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What the policy answers to one prompt."""

    prompt: str
    """The prompt as a person wrote it: of a conversation its last user turn, or all turns with their roles."""
    answer: str
    """Without special tokens; empty where the policy ends at once."""


@dataclass(frozen=True, slots=True)
class SamplesRecord:
    """The answers of the policy to the prompts of ``[samples]``: one line of ``samples.jsonl``."""

    step: int
    """0 for the policy before training."""
    samples: Sequence[Sample]
    """One for each prompt, in the same order at every step."""

    def as_json(self) -> dict[str, Any]:
        """Return the line's object."""
        return {
            "step": self.step,
            "samples": self._rows(),
        }

    def as_text(self) -> TextRecord:
        """Return what loggers get."""
        return TextRecord("samples", self.step, self._rows())

    def _rows(self) -> list[dict[str, str]]:
        return [{"prompt": each.prompt, "answer": each.answer} for each in self.samples]


@dataclass(frozen=True, slots=True)
class TextRecord:
    """Texts beside a run's numbers, a table: one line of ``texts.jsonl``, or the samples of a step."""

    name: str
    """What the texts are, ``"samples"``; the same at every step."""
    step: int
    rows: Sequence[Mapping[str, str | float]]
    """Each by the same columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.rows[0]) if self.rows else ()

    def as_json(self) -> dict[str, Any]:
        """Return the line's object."""
        return {"name": self.name, "step": self.step, "rows": [dict(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class BestBy:
    """Which of two evaluations is the better one."""

    metric: str
    """As an evaluation's record names it."""
    lowest: bool

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` beats ``than``; nan beats nothing."""
        if math.isnan(than):
            return not math.isnan(value)
        return value < than if self.lowest else value > than


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that is complete on disk."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: what ``dpotrain.train`` returns and ``summary.json`` holds."""

    status: Status
    steps: int
    folder: Path
    final: Path | None
    """The folder with the trained model or adapter, where the run finished."""
    final_step: int | None = None
    """The step whose policy is in there: the last, or with ``evaluation.best`` the one of the best evaluation."""
    train: Mapping[str, float] = field(default_factory=dict)
    """The last train record's metrics."""
    first_evaluation: Mapping[str, float] = field(default_factory=dict)
    last_evaluation: Mapping[str, float] = field(default_factory=dict)
    best_evaluation: Mapping[str, float] = field(default_factory=dict)
    """The best evaluation, with its ``step``."""
    best_by: str = "loss"
    """The metric by which an evaluation is best."""
    seconds: float = 0.0
    pairs_per_second: float = 0.0
    tokens_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    plan: Mapping[str, float] = field(default_factory=dict)
    """``peak_memory_mb_predicted`` at the start, ``peak_memory_mb_measured`` and ``tokens_per_second_measured``."""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What plugins reported (see :meth:`Run.report`), by section name."""
    how_to_load: str = ""
    error: str = ""
    checkpoint_step: int | None = None
    """The step of the newest checkpoint, from which ``--resume`` continues; None without one."""

    @property
    def final_evaluation(self) -> Mapping[str, float]:
        """The evaluation of the policy in ``final``; empty where it had none."""
        if self.final_step is None:
            return self.last_evaluation
        known = (
            each
            for each in (self.last_evaluation, self.best_evaluation)
            if each.get("step") == self.final_step
        )
        return next(known, {})


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The run as loggers see it: in ``Logger.start``, and in run events that are methods of a logger.

    It has no policy, tokenizer or device: a logger works in its own thread while the policy is trained, and
    ``dpotrain sync`` replays runs whose policy no longer exists.
    """

    folder: Path
    config: Mapping[str, Any]
    """The resolved recipe as plain data, without secrets."""
    seed: int
    total_steps: int
    train_pairs: int
    eval_pairs: int
    resumed_from: int = 0
    """The step that the run was resumed from; 0 for a new or replayed run."""
    plugins: Sequence[Mapping[str, Any]] = ()
    """The active plugins, as in ``environment.json``."""
    note: Callable[[str], None] = lambda text: None
    """Shows a line to the user and writes it to run.log, between two steps."""
    report: Callable[[str, Mapping[str, Any]], None] = lambda section, values: None
    """``Run.report`` between two steps; does nothing while a run is replayed."""


@dataclass(frozen=True, slots=True)
class HeldOutPair:
    """One pair of the evaluation set, as plugins get it from :attr:`Run.held_out`."""

    row: int
    """Number of its row in the source."""
    prompt: str
    """As a person wrote it: the only turn's text, or all turns after their roles."""
    chosen: str
    rejected: str
    prompt_ids: Sequence[int]
    """Token ids, as the policy sees them."""
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]
    columns: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the pair's row, by name: what components of the recipe ask for in ``columns``."""
    source: str = ""
    """Label of its source, in a mixture."""

    def __post_init__(self) -> None:
        """Have a name that was not asked for explained."""
        object.__setattr__(self, "columns", PairColumns(self.columns))


def _over(name: str) -> Callable[..., None]:
    """Return a function that says that the run is over."""

    def refuse(*_: object) -> None:
        raise ValueError(f"run.{name}: the run is over; run.report puts values into summary.json")

    return refuse


@dataclass(slots=True)
class Run:
    """The run as plugins see it in every run event (where the plugin is a logger, it gets a :class:`LoggedRun`)."""

    folder: Path
    config: Mapping[str, Any]
    """The resolved recipe as plain data, without secrets."""
    policy: PreTrainedModel
    """The model being trained, with its adapter, never wrapped for data parallelism."""
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    seed: int
    total_steps: int
    train_pairs: int
    eval_pairs: int
    is_main_process: bool = True
    resumed_from: int = 0
    """The step that the run was resumed from; 0 for a new run."""
    note: Callable[[str], None] = lambda text: None
    """Shows a line to the user and writes it to run.log."""
    stop: Callable[[str], None] = lambda reason: None
    """Ends the run after the present step as if it had been its last: evaluated, saved, with ``final/``, as finished.
    The reason, a few words, is shown. A run that is resumed from that step ends there, too."""
    save: Callable[[], None] = lambda: None
    """Has a checkpoint saved after the present step."""
    evaluate: Callable[[], None] = lambda: None
    """Has the held-out pairs scored after the present step."""
    held_out: Callable[[], Sequence[HeldOutPair]] = tuple
    """Returns the pairs of the evaluation set, texts and tokens, in their order and alike on every process; none where
    there are none."""
    log_text: Callable[[str, Sequence[Mapping[str, str | float]]], None] = lambda name, rows: None
    """Logs a table of texts, ``run.log_text("judged", [{"prompt": …, "answer": …}, …])``: to ``texts.jsonl`` and every
    logger, at the present step. All rows have the same columns."""
    inference: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context for ``policy.generate`` and other inference: no gradients, dropout and activation checkpointing off,
    the run's precision. Where processes shard the weights (``parallel.shard``), each makes the same calls inside; in
    an event of the main process alone it raises a RunError then."""
    plugins: Sequence[Mapping[str, Any]] = ()
    """Name, distribution and version of each active plugin, and the components that the recipe selects of it."""
    components: Sequence[object] = ()
    """The components that the recipe selects, in its order; see :meth:`all_of`."""
    metric_names: Sequence[str] = ()
    """What ``[[metrics]]`` of the recipe add to records: ``("length/margins", …)``."""
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    """What :meth:`log` was given since the last record."""
    is_over: bool = False
    """Whether the last step, evaluation and checkpoint are behind it, as in ``dpotrain_run_finished``."""

    def close(self) -> None:
        """Refuse from now on what belongs to a step: there is none to come."""
        self.is_over = True
        self.stop, self.log_text = _over("stop"), _over("log_text")
        self.save, self.evaluate = _over("save"), _over("evaluate")

    def all_of(self, kind: type[C]) -> tuple[C, ...]:
        """Return the components of a kind or class that the recipe selects, in its order."""
        return tuple(part for part in self.components if isinstance(part, kind))

    def log(self, **values: float) -> None:
        """Add numbers to a record: ``run.log(patience_left=2)``; the last value of a name counts.

        Within ``dpotrain_evaluated`` that is the evaluation's own, else the next train record. They reach the metrics
        file, every logger and ``dpotrain sync``.

        Raises:
            ValueError: a name is one of the run's own metrics or of ``[[metrics]]``, a value is no number, or the run
                is over.
        """
        if self.is_over:
            _over("log")()
        for name, value in values.items():
            if name in OWN_METRICS or name in ("kind", "step"):
                raise ValueError(f'run.log: "{name}" is a number of the run itself; choose another name')
            if name in self.metric_names:
                raise ValueError(
                    f'run.log: "{name}" is a number of the recipe\'s [[metrics]]; choose another name'
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"run.log takes numbers, and {name} is {value!r}")
        self.logged.update(values)

    def report(self, section: str, values: Mapping[str, Any]) -> None:
        """Put ``values`` (plain JSON data) into summary.json under ``section``, merging with what is there.

        A value of the key ``"table"`` — ``{"columns": […], "rows": [[…], …]}`` — is shown as a table in the
        closing summary, other plain values as lines.

        Raises:
            TypeError: JSON cannot hold a value.
        """
        try:
            json.dumps(values)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"run.report({section!r}, …) takes plain JSON data: {error}") from error
        self.sections.setdefault(section, {}).update(values)
