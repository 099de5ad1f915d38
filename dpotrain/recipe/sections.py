"""The recipe tables that belong to the core, typed.

Components own the rest (see :mod:`dpotrain.plugin.api`). Where a key may be none, a recipe writes
``false``: TOML has no null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dpotrain.core.records import BestBy
from dpotrain.plugin.api.kinds import COMPONENT_TABLES, DEFAULT_USE, LISTED_TABLES, OPTIONAL_TABLES


class Section(BaseModel):
    """Base of every table: frozen, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )


class TopLevel(Section):
    """The keys at the top of a recipe, before any table."""

    seed: int = Field(
        42, ge=0, lt=2**32, description="What the order of the pairs and new weights are drawn from."
    )
    requires: list[str] = Field(
        default_factory=list,
        description='Distributions that must be installed, as pip writes them: `["dpotrain-foo>=0.2"]`. '
        "The run events of their plugins are heard.",
    )
    block: list[str] = Field(
        default_factory=list, description="Plugins, or whole distributions, that are left out."
    )


class RunSection(Section):
    """Where the run's files go."""

    output_dir: Path = Field(
        description="The run folder; made if missing, relative to the working directory."
    )
    cache_dir: Literal["auto"] | Path | None = Field(
        "auto",
        description="Folder where tokenized data and reference log-probs are kept for later runs; "
        '"auto" is `$XDG_CACHE_HOME/dpotrain`, or `~/.cache/dpotrain`. false keeps none: tokens are then in '
        "temporary files (see `TMPDIR`), log-probs in the run folder.",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Save and stop, with exit code 75, so many minutes after the start, before a batch system ends the "
        "job; `--resume` goes on, for as long again.",
    )


class DataSection(Section):
    """Which pairs are trained on. Keys that are not listed here belong to the dataset source."""

    format: str | dict[str, Any] = Field(
        "auto",
        description='A formatter\'s name, "auto" to ask all of them, or `{ use = "…", … }` with its options.',
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description='Which column of the data is the prompt, the chosen answer, …: `{ prompt = "q" }`.',
    )
    train_split: str = Field("train", description="The split that is trained on.")
    eval_split: str | None = Field(None, description="A split to evaluate on.")
    eval_fraction: float | None = Field(
        None, gt=0, lt=1, description="Share of the training split's prompts kept back for evaluation."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first so many rows of each split.")
    shuffle: bool = Field(True, description="False takes the pairs in file order, every epoch.")
    max_length: int = Field(1024, ge=2, description="Bound on the tokens of prompt + completion.")
    truncation: Literal["end"] = Field("end", description="Where an over-long completion is cut.")

    @model_validator(mode="after")
    def _one_evaluation_set(self) -> DataSection:
        if self.eval_split is not None and self.eval_fraction is not None:
            raise ValueError("eval_split and eval_fraction exclude each other; keep one")
        return self


class ReferenceSection(Section):
    """What the policy is held close to."""

    of: str = Field(
        "initial-policy",
        description='"initial-policy" (the policy before training), or hub name or folder of another model, '
        "which is loaded without [quantizer].",
    )
    when: Literal["auto", "live", "precomputed"] = Field(
        "auto",
        description='"live" computes it in every step, "precomputed" once before training, as far as it is not '
        'stored already; "auto" is "precomputed", but with an adapter and one epoch "live" unless all of it is '
        "stored already.",
    )
    store: Path | None = Field(
        None,
        description="Folder of stored log-probs, shared between runs; in `run.cache_dir` unless set.",
    )


class TrainingSection(Section):
    """The steps."""

    epochs: int = Field(1, ge=1, description="Passes over the training pairs.")
    steps: int | None = Field(None, ge=1, description="Stop after so many steps, even within an epoch.")
    pairs_per_step: int = Field(64, ge=1, description="Pairs in one optimizer update, over all processes.")
    tokens_per_microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Tokens in one forward and backward pass; changes speed and memory, not results."
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description='"bf16" runs under bfloat16 autocast, or, on a processor without products in bfloat16, '
        "in float32.",
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Larger gradients are scaled down to this norm; `false` for none of that."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description='What is done where a step\'s loss or gradient norm is not finite: "stop" saves and ends the run, '
        '"skip" leaves the step out. Either way its pairs are written out.',
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description='"auto" packs pairs without padding where the model is proven to take it; "on" insists; '
        '"off" pads.',
    )
    activation_checkpointing: bool | Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Layers whose activations are computed again in the backward pass: less memory, more time, the "
        'same results. "auto" takes as few as let the longest pair fit; true takes all.',
    )
    compile: bool = Field(
        False,
        description="Compile the model's layers (torch.compile): a slow start, then faster on a GPU; needs a compiler.",
    )


class EvaluationSection(Section):
    """When the held-out pairs are scored. With any held-out pairs, always before and after training."""

    every: int | None = Field(None, ge=1, description="Also evaluate every so many steps.")


class CheckpointsSection(Section):
    """When the run can be picked up again."""

    every: int | None = Field(
        200,
        ge=1,
        description="Save every so many steps, and after the last; on a signal in any case. false: only then.",
    )
    keep: int = Field(
        3,
        ge=1,
        description="How many of the newest checkpoints stay; of those that were evaluated the best stays besides.",
    )
    best: str = Field(
        "loss",
        description="The metric of an evaluation that says which is best, as `metrics.jsonl` names it.",
    )
    best_is: Literal["auto", "lowest", "highest"] = Field(
        "auto", description='"auto" is "lowest" for `loss` and "highest" for every other metric.'
    )

    @property
    def best_by(self) -> BestBy:
        """Which of two evaluations is the better one."""
        lowest = self.best == "loss" if self.best_is == "auto" else self.best_is == "lowest"
        return BestBy(self.best, lowest)


class LoggingSection(Section):
    """How often a train record is written, and how long loggers may take over it; no step waits for them."""

    every: int = Field(10, ge=1, description="Steps that one record averages over.")
    patience: float = Field(
        120.0,
        gt=0,
        description="Seconds after which a logger that does not return is dropped, and that the end of a run waits for "
        "loggers at most (10 where it was asked to stop). `dpotrain sync` replays what was not delivered.",
    )


#: The core's tables by name; those without a required key may be left out of a recipe.
CORE_SECTIONS: dict[str, type[Section]] = {
    "run": RunSection,
    "data": DataSection,
    "reference": ReferenceSection,
    "training": TrainingSection,
    "evaluation": EvaluationSection,
    "checkpoints": CheckpointsSection,
    "logging": LoggingSection,
}


def core_keys(table: str) -> frozenset[str]:
    """Return the keys of a table that are the core's: of a component's table, those that do not belong to it."""
    return frozenset(CORE_SECTIONS[table].model_fields) if table in CORE_SECTIONS else frozenset()


_FIRST = (
    *(
        "run",
        "model",
        "quantizer",
        "adapter",
        "data",
        "reference",
        "loss",
        "training",
        "optimizer",
        "schedule",
    ),
    *("evaluation", "checkpoints", "logging"),
)
#: All tables in the order in which recipes and documents have them: a new kind's stand after these.
TABLES: tuple[str, ...] = tuple(dict.fromkeys([*_FIRST, *CORE_SECTIONS, *COMPONENT_TABLES, *LISTED_TABLES]))


def required_tables() -> set[str]:
    """Return the names of the tables that no recipe can leave out."""
    options: dict[str, type[BaseModel]] = {name: COMPONENT_TABLES[name].Options for name in DEFAULT_USE}
    needed = {
        name
        for name, model in {**CORE_SECTIONS, **options}.items()
        if any(field.is_required() for field in model.model_fields.values())
    }
    return needed | (COMPONENT_TABLES.keys() - OPTIONAL_TABLES - DEFAULT_USE.keys())
