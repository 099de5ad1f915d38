"""What the demo measures: the share of sampled replies in the preferred style, before and after training."""

from __future__ import annotations

import itertools
import json
from typing import Any

from dpotrain.plugin.api import Run, RunError, write_json
from dpotrain_plugins.demo.grammar import Request, Style, requests, style
from dpotrain_plugins.demo.sampling import sample_replies

_SHOWN = 3
_KEPT = "demo.json"


class Experiment:
    """Samples one reply to each of ``count`` held-out requests, in the two states of the policy.

    The replies of the untrained policy are kept in the run folder, because a resumed run no longer has that policy.
    """

    def __init__(self, count: int, seed: int, prefer: Style) -> None:
        self._count = count
        self._seed = seed
        self._prefer = prefer
        self._before: list[str] | None = None

    def before(self, run: Run) -> None:
        """Sample from the untrained policy and report its share; a resumed run reads back what it once was."""
        asked = self._requests()
        self._before = self._read(run, asked) if run.resumed_from else self._sample(run, asked)
        if self._before is None:
            if run.resumed_from:
                place = run.folder / _KEPT
                run.note(f"{place} is missing or of another run: the share before training is not known")
            return
        if not run.resumed_from:
            both = zip(asked, self._before, strict=True)
            write_json(
                run.folder / _KEPT, [{"request": request.text, "before": reply} for request, reply in both]
            )
        self._report(run, "before", asked, self._before)

    def after(self, run: Run) -> None:
        """Sample from the trained policy, report its share, and show a few replies side by side."""
        asked = self._requests()
        after = self._sample(run, asked)
        if after is None:
            return
        self._report(run, "after", asked, after)
        if self._before is not None:
            run.report("demo", {"table": _side_by_side(asked, self._before, after)})

    def _requests(self) -> list[Request]:
        return list(itertools.islice(requests(self._seed, held_out=True), self._count))

    def _sample(self, run: Run, asked: list[Request]) -> list[str] | None:
        try:
            inference = run.inference()
        except RunError as error:
            run.note(f"the demo samples no replies: {error}")
            return None
        with inference:
            return sample_replies(run.policy, run.tokenizer, [request.text for request in asked], self._seed)

    def _report(self, run: Run, when: str, asked: list[Request], replies: list[str]) -> None:
        preferred = sum(style(reply) == self._prefer for reply in replies) / len(replies)
        answered = sum(map(Request.is_answered_by, asked, replies)) / len(replies)
        run.report("demo", {"preferred_style": self._prefer, "sampled_replies": len(replies)})
        run.report("demo", {f"preferred_{when}": preferred, f"answered_{when}": answered})
        run.note(
            f"{when} training {preferred:.0%} of {len(replies)} sampled replies are {self._prefer}, "
            f"{answered:.0%} give the right answer"
        )

    def _read(self, run: Run, asked: list[Request]) -> list[str] | None:
        try:
            kept = json.loads((run.folder / _KEPT).read_text("utf-8"))
            same = [line["request"] for line in kept] == [request.text for request in asked]
            return [str(line["before"]) for line in kept] if same else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _side_by_side(asked: list[Request], before: list[str], after: list[str]) -> dict[str, Any]:
    """Return a table of the first replies to requests of different kinds."""
    first: dict[str, list[str]] = {}
    for request, old, new in zip(asked, before, after, strict=True):
        first.setdefault(request.intent.name, [request.text, old, new])
    return {"columns": ["request", "before", "after"], "rows": list(first.values())[:_SHOWN]}
