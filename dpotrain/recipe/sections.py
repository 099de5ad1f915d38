"""The recipe tables that belong to the core, typed. TOML has no null: a recipe writes ``false`` for None."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dpotrain.core.pair_columns import PAIR_COLUMNS
from dpotrain.core.records import BestBy
from dpotrain.core.template_arguments import without_taken
from dpotrain.plugin.api import Quantizer
from dpotrain.plugin.api.kinds import CORE_KINDS, Kinds
from dpotrain.plugin.api.nested import Use
from dpotrain.recipe.mixture import SourceTable, label_fault

#: ``reference.of`` for the policy before training.
INITIAL_POLICY = "initial-policy"
#: Prompts of the evaluation set that are sampled unless the recipe says how many.
HELD_OUT_PROMPTS = 4


class Section(BaseModel):
    """Base of every table: frozen, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
    )


class TopLevel(Section):
    """The keys at the top of a recipe, before any table."""

    seed: int = Field(
        42, ge=0, lt=2**32, description="Random seed of the order of the pairs and of new weights."
    )
    requires: list[str] = Field(
        default_factory=list,
        description='Distributions that must be installed, as pip writes them: `["dpotrain-foo>=0.2"]`. '
        "Their plugins receive the run's events.",
    )
    block: list[str] = Field(
        default_factory=list, description="Plugins or distributions that are not loaded."
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
        description="Save and stop, with exit code 75, this many minutes after the start: before a batch system's time "
        "limit. `--resume` continues, for as long again.",
    )


class DataSection(Section):
    """The pairs to train and evaluate on. Keys that are not listed here belong to the dataset source."""

    format: str | dict[str, Any] = Field(
        "auto",
        description='A formatter\'s name, "auto" to detect it from the rows, or `{ use = "…", … }` with its options.',
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The data's column for each of the formatter's: `{ prompt = \"question\" }`, and for each number "
        'of a pair: `{ weight = "votes" }`.',
    )
    ignore_columns: list[str] = Field(
        default_factory=list,
        description="Columns to leave out, such as one that holds an answer which is not to be trained on.",
    )
    train_split: str = Field("train", description="The split to train on.")
    eval_split: str | None = Field(None, description="The split to evaluate on.")
    eval_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the training split's prompts held out for evaluation; 0 holds none out.",
    )
    limit: int | None = Field(None, ge=1, description="Number of rows to use of each split, from the first.")
    shuffle: bool = Field(
        True, description="Shuffle the pairs every epoch; false keeps the order of the rows."
    )
    max_length: int = Field(1024, ge=2, description="Maximum number of tokens of prompt + completion.")
    max_prompt_length: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens of the prompt, less than `max_length`. A longer one is cut at its start, "
        'behind its BOS; with `truncation = "drop"` its pair is dropped.',
    )
    truncation: Literal["end", "start", "drop"] = Field(
        "end",
        description='What becomes of a pair longer than `max_length`: "end" cuts each completion at its end, "start" '
        'cuts the prompt at its start and leaves both completions whole, "drop" drops the pair. What cannot be cut is '
        "dropped, too, and counted.",
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables for the chat template: `{ enable_thinking = false }`. A row may set its own in a column "
        "`template_arguments` or `chat_template_kwargs`.",
    )
    clock: str | None = Field(
        None,
        description='The time that a chat template with today\'s date in it reads, in ISO 8601: `"2026-01-31"`. Unless '
        "set, that of the run's start, also where it is resumed later.",
    )

    sources: list[SourceTable] = Field(
        default_factory=list,
        description="Several sources, `[[data.sources]]`, in the place of `use` and the keys of one. What is set here "
        "holds for all of them.",
    )

    _are_variables = field_validator("template_arguments")(without_taken)

    @field_validator("clock")
    @classmethod
    def _is_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(
                    "it is not a date and time in ISO 8601, such as 2026-01-31T12:00:00"
                ) from None
        return value

    @field_validator("eval_fraction")
    @classmethod
    def _none_of_nothing(cls, value: float | None) -> float | None:
        return value or None

    @property
    def pair_columns(self) -> frozenset[str]:
        """The columns that dpotrain itself reads (see :mod:`dpotrain.core.pair_columns`) and the recipe maps."""
        mapped = self.columns.keys() | {name for source in self.sources for name in source.columns}
        return frozenset(PAIR_COLUMNS) & mapped

    @property
    def has_evaluation_set(self) -> bool:
        """Whether pairs are held out."""
        own = any(source.eval_split is not None for source in self.sources)
        return own or self.eval_split is not None or self.eval_fraction is not None

    @model_validator(mode="after")
    def _one_evaluation_set(self) -> DataSection:
        if self.eval_split is not None and self.eval_fraction is not None:
            raise ValueError("eval_split and eval_fraction exclude each other; keep one")
        return self

    @model_validator(mode="after")
    def _room_for_answers(self) -> DataSection:
        if self.max_prompt_length is not None and self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length = {self.max_prompt_length} must be less than max_length = {self.max_length}, "
                "which bounds prompt + completion"
            )
        return self

    @model_validator(mode="after")
    def _different_labels(self) -> DataSection:
        if fault := label_fault(self.sources):
            raise ValueError(fault)
        return self


class ReferenceUpdate(Section):
    """How a reference follows the policy (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656)."""

    every: int = Field(ge=1, description="Number of steps between updates.")
    share: float = Field(
        gt=0, le=1, description="Share of the policy in the reference after an update; 1 replaces it."
    )


class ReferenceSection(Section):
    """The reference model, which the loss compares the policy with."""

    of: str = Field(
        INITIAL_POLICY,
        description='"initial-policy" (the policy before training), or hub name or folder of another model, '
        "which is loaded with `reference.quantizer`, not with `[quantizer]`.",
    )
    quantizer: Use[Quantizer] | None = Field(
        None,
        description='Loads the model of `reference.of` in fewer bits: a quantizer\'s name, or `{ use = "…", … }` with '
        "its options.",
    )
    when: Literal["auto", "live", "precomputed"] = Field(
        "auto",
        description='When its log-probs are computed: "live" in every step, "precomputed" once before training, for '
        'pairs that are not stored yet. "auto" is "precomputed"; with an adapter that adds '
        'weights, such as lora, and one epoch it is "live", unless all pairs are stored; with `update` it is always '
        '"live".',
    )
    store: Path | None = Field(
        None,
        description="Folder of precomputed log-probs, shared between runs; in `run.cache_dir` unless set.",
    )
    update: ReferenceUpdate | None = Field(
        None,
        description="`{ every = 512, share = 0.6 }`: after every 512 steps the reference becomes 0.6 times the policy "
        "plus 0.4 times itself; `share = 1` replaces it (TR-DPO, arXiv 2404.09656).",
    )


class TrainingSection(Section):
    """Length, step size, precision and memory of the training."""

    epochs: int = Field(1, ge=1, description="Passes over the training pairs.")
    steps: int | None = Field(None, ge=1, description="Stop after this many steps, even within an epoch.")
    pairs_per_step: int = Field(64, ge=1, description="Pairs in one optimizer update, over all processes.")
    tokens_per_microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Tokens in one forward and backward pass; changes speed and memory, not results."
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description='"bf16" runs under bfloat16 autocast, or, on a processor without products in bfloat16, '
        'in float32. "fp32" computes in the dtype of the weights, which are upcast where it is float16.',
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Gradients are clipped to this norm; `false` does not clip."
    )
    router_loss_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Weight of the load-balancing loss of a mixture of experts, as transformers defines it, over all "
        'tokens of a step. "auto" is the weight of the model\'s configuration (`router_aux_loss_coef`), 0 is without. '
        "The metric is `router_loss`; it is not part of `loss`.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description='What to do where a step\'s loss or gradient norm is not finite: "stop" saves and ends the run, '
        '"skip" skips the step. Its pairs are written to `nonfinite_pairs.jsonl`.',
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description='"auto" packs pairs without padding if a check of the model passes, "on" fails if it does not; '
        '"off" pads.',
    )
    activation_checkpointing: bool | Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Layers whose activations are recomputed in the backward pass: less memory, more time, the "
        'same results. "auto" uses as few as the longest pair needs to fit, and on a GPU micro-batches of 8,192 '
        "tokens, which fewer would not keep busy; true uses all. Where the longest pair does not fit with all of them, "
        "or as many as are set, norms and feed-forward blocks compute long rows in tiles of tokens.",
    )
    activation_offload: bool | Literal["auto"] = Field(
        "auto",
        description="Keep the inputs of checkpointed layers in the host's memory until the backward pass: less memory "
        'of a GPU, the same results. "auto" does so where the longest pair would not fit otherwise; true always, with '
        "all layers checkpointed unless `activation_checkpointing` sets their number. Without effect on a CPU.",
    )
    compile: bool = Field(
        False,
        description="Compile each decoder layer to one graph (torch.compile): a slow start, then faster on a GPU; "
        "needs a compiler.",
    )

    @model_validator(mode="after")
    def _offloads_what_is_kept(self) -> TrainingSection:
        if self.activation_offload is True and self.activation_checkpointing is False:
            raise ValueError(
                "activation_offload = true moves the inputs of checkpointed layers, and activation_checkpointing = "
                'false leaves none; set it to true or "auto"'
            )
        return self


class EvaluationSection(Section):
    """When the held-out pairs are evaluated, besides after training, and on how many of them."""

    every: int | None = Field(None, ge=1, description="Number of steps between evaluations.")
    first: bool = Field(True, description="Evaluate before training, too.")
    pairs: int | None = Field(
        None,
        ge=1,
        description="Evaluate on this many of the held-out pairs: a sample by the recipe's `seed`, the same in every "
        "evaluation. All of them unless set.",
    )
    best: bool = Field(
        False,
        description="`final/` holds the policy of the best evaluation (by `checkpoints.best`) instead of the last "
        "step's. A checkpoint is saved after every evaluation that is the best so far, and kept until a better one is "
        "complete. The evaluation before training does not count; the evaluation that the summary calls the last "
        "remains that of the last step.",
    )


class SamplesSection(Section):
    """What the policy answers to some prompts: before training, after evaluations, and after the last step.

    The answers are in `samples.jsonl` of the run folder, on the terminal, and in every logger. They change no number of
    the training. With a chat template a text is a conversation of one user turn, unless the pairs are plain text.
    """

    prompts: Literal["held-out"] | list[str] | Path = Field(
        description="A list of texts; or a file with a prompt a line (`.txt`), or with texts or messages (`.jsonl`, "
        '`.json`; of an object its `prompt` or `messages`); or "held-out" for prompts of the evaluation set.'
    )
    count: int | None = Field(
        None,
        ge=1,
        description='How many of the prompts, from the first; of "held-out" ones a sample by the recipe\'s `seed`. All '
        f'of a list or file unless set, and {HELD_OUT_PROMPTS} of "held-out".',
    )
    every: int = Field(1, ge=1, description="Sample after every so many evaluations.")
    max_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=10,
        description="0 takes the likeliest token; 1 draws from the policy's own distribution.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Draws from the likeliest tokens that together have this probability (nucleus sampling).",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Of the draws: every time the policy is sampled they are the same."
    )

    @field_validator("prompts")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, list) and not any(text.strip() for text in value):
            raise ValueError("the list has no prompt; leave the table [samples] out for no samples")
        return value


class CheckpointsSection(Section):
    """When checkpoints are saved, and which are kept."""

    every: int | None = Field(
        200,
        ge=1,
        description="Number of steps between checkpoints. One is also saved after the last step and on a "
        "signal; false: only on a signal.",
    )
    keep: int = Field(
        3,
        ge=1,
        description="How many of the newest checkpoints are kept, besides the best of those that were evaluated.",
    )
    best: str = Field(
        "loss", description="The metric that decides which evaluation is best, as `metrics.jsonl` names it."
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
    """How often a train record is written, and how long loggers may take. No step waits for a logger."""

    every: int = Field(10, ge=1, description="Number of steps that one record averages over.")
    patience: float = Field(
        120.0,
        gt=0,
        description="Seconds after which a logger that does not return is dropped, and the longest that the end of a "
        "run waits for loggers (10 after a stop signal). `dpotrain sync` replays what was not delivered.",
    )


class ParallelSection(Section):
    """How the processes of a launched run share memory and pairs. Without effect on results, but for rounding."""

    shard: Literal["auto", "none", "all"] = Field(
        "auto",
        description='"all" shards the weights over the processes, with their gradients and optimizer state; each '
        "decoder layer is gathered while it computes. With an adapter these are the frozen weights, also in the 4 bits "
        "of `bnb-4bit`; other quantized weights are refused. "
        '"none" holds all of them on every process, which exchanges less. "auto" is "none" where that fits on every '
        "GPU with the longest pair, and on CPUs; otherwise the weights are sharded over the processes of a machine if "
        "that is enough, or over all. The header says which, and why.",
    )
    group: int | None = Field(
        None,
        ge=2,
        description="Number of processes that hold one copy of the weights together, neighbours in rank: with those of "
        "a machine, weights are gathered inside it, and machines exchange gradients once a step. All processes unless "
        "set.",
    )
    offload: Literal["cpu"] | None = Field(
        None,
        description='"cpu" keeps the sharded weights, their gradients and optimizer state in the host\'s memory, where '
        "the optimizer updates them: less memory of a GPU, more time. Without effect on a CPU.",
    )
    context: int = Field(
        1,
        ge=1,
        description="Processes that compute each pair together, each an equal part of its tokens: for pairs whose "
        "activations do not fit one device. It divides the number of processes, and the attention heads of the model; "
        "needs packed pairs.",
    )

    @model_validator(mode="after")
    def _shards(self) -> ParallelSection:
        if self.shard == "none" and (self.group is not None or self.offload is not None):
            key = "group" if self.group is not None else "offload"
            raise ValueError(
                f'{key} is for weights that are sharded, and shard = "none" shards none; remove one'
            )
        return self


#: The core's tables by name; those without a required key can be left out of a recipe.
CORE_SECTIONS: dict[str, type[Section]] = {
    "run": RunSection,
    "data": DataSection,
    "reference": ReferenceSection,
    "training": TrainingSection,
    "parallel": ParallelSection,
    "evaluation": EvaluationSection,
    "samples": SamplesSection,
    "checkpoints": CheckpointsSection,
    "logging": LoggingSection,
}

#: Those that are None where a recipe leaves them out or says false.
OPTIONAL_SECTIONS = frozenset({"samples"})


def core_keys(table: str) -> frozenset[str]:
    """Return the keys of a table that are the core's: of a component's table, those that do not belong to it."""
    return frozenset(CORE_SECTIONS[table].model_fields) if table in CORE_SECTIONS else frozenset()


_FIRST = [
    "run",
    "model",
    "quantizer",
    "adapter",
    "data",
    "reference",
    "loss",
    "training",
    "parallel",
    "optimizer",
    "schedule",
]


def tables_of(kinds: Kinds) -> tuple[str, ...]:
    """Return all tables in the order of recipes and documents; tables of new kinds follow."""
    return tuple(dict.fromkeys([*_FIRST, *CORE_SECTIONS, *kinds.tables, *kinds.listed]))


#: Those of the core alone.
TABLES = tables_of(CORE_KINDS)


def required_tables() -> set[str]:
    """Return the names of the tables that every recipe must have."""
    components = CORE_KINDS.tables
    tables: dict[str, type[BaseModel]] = {
        name: components[name].component.Options for name in CORE_KINDS.default_use
    }
    tables |= {name: section for name, section in CORE_SECTIONS.items() if name not in OPTIONAL_SECTIONS}
    needed = {name for name, t in tables.items() if any(f.is_required() for f in t.model_fields.values())}
    return needed | (components.keys() - CORE_KINDS.optional - CORE_KINDS.default_use.keys())
