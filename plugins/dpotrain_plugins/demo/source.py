"""The ``demo`` source: preference pairs from the grammar, and the experiment that shows whether training learns."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from functools import cached_property
from typing import Any

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Component, DataError, DatasetSource, Outcome, Rows, Run
from dpotrain_plugins.demo.experiment import Experiment
from dpotrain_plugins.demo.grammar import STYLES, Request, Style, requests

_SPLITS = {"train": False, "test": True}
"""Whether a split's requests are held out."""


class DemoSource(DatasetSource):
    """Pairs whose chosen reply is courteous and whose rejected one is curt, both answering the request.

    Before and after the run it samples replies to requests that are in no training data, and reports the share in
    the preferred style. The sampling leaves no trace in the training.
    """

    name = "demo"
    free_on_resume = frozenset({"samples"})

    class Options(Component.Options):
        pairs: int = Field(400, ge=1, le=20_000, description="How many pairs the split has.")
        seed: int = Field(0, ge=0, description="Decides which requests and replies are generated.")
        prefer: Style = Field(
            "courteous", description='The style of the chosen replies: "courteous" or "curt".'
        )
        samples: int = Field(
            200, ge=0, le=10_000, description="Replies sampled before and after training; 0 samples none."
        )

    options: Options

    def splits(self) -> list[str]:
        """Return "train" and "test"; the requests of the second are in no training data."""
        return list(_SPLITS)

    def load(self, split: str) -> Rows:
        if split not in _SPLITS:
            raise DataError(f'the demo data has no split "{split}".\nIts splits are: {", ".join(_SPLITS)}.')
        return DemoRows(self.options.pairs, self.options.seed, self.options.prefer, held_out=_SPLITS[split])

    @cached_property
    def _experiment(self) -> Experiment:
        return Experiment(self.options.samples, self.options.seed, self.options.prefer)

    @hookimpl
    def dpotrain_run_started(self, run: Run) -> None:
        if self.options.samples:
            self._experiment.before(run)

    @hookimpl
    def dpotrain_run_finished(self, run: Run, outcome: Outcome) -> None:
        if self.options.samples and outcome.status == "finished":
            self._experiment.after(run)


class DemoRows(list[dict[str, Any]]):
    """Rows of messages, ``{"prompt": […], "chosen": […], "rejected": […]}``."""

    def __init__(self, count: int, seed: int, prefer: Style, *, held_out: bool) -> None:
        rng = random.Random(f"pairs {seed} {held_out}")
        asked = itertools.islice(requests(seed, held_out=held_out), count)
        super().__init__(_row(request, prefer, rng) for request in asked)
        self.columns = ["prompt", "chosen", "rejected"]
        self.fingerprint = hashlib.sha256(json.dumps(self).encode()).hexdigest()


def _row(request: Request, prefer: Style, rng: random.Random) -> dict[str, list[dict[str, str]]]:
    replies = {each: request.reply(each, rng) for each in STYLES}
    chosen = replies.pop(prefer)
    (rejected,) = replies.values()
    return {
        "prompt": [{"role": "user", "content": request.text}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
