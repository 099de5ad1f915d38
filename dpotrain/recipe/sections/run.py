"""The seed and the plugins of a run, and what it writes where and when."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dpotrain.core.records import BestBy
from dpotrain.recipe.sections.base import Section


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
