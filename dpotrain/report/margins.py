"""The margin of each held-out pair at each evaluation: which pairs stay wrong, and which moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpotrain.core.statistics import sign_test
from dpotrain.report.run_files import RunFiles, integer_of, number_of, text_of
from dpotrain.run.checkpoint.files import NAME

#: Margins below this are zero up to rounding: a policy that equals its reference prefers neither answer.
_TIE = 1e-4


@dataclass(frozen=True, slots=True)
class HeldOutPair:
    """A pair of the evaluation set, its texts cut to some 300 characters."""

    row: int
    prompt: str
    chosen: str
    rejected: str
    source: str = ""
    """Label of its source, in a mixture."""

    @property
    def place(self) -> str:
        """Where it comes from: ``row 17``, or ``row 17 of helpful``."""
        return f"row {self.row}" + (f" of {self.source}" if self.source else "")


@dataclass(frozen=True, slots=True)
class Course:
    """One pair over the evaluations that tell right from wrong."""

    pair: HeldOutPair
    steps: tuple[int, ...]
    margins: tuple[float, ...]
    """At each of ``steps``; no value is not a number."""

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether the policy preferred the chosen answer, at each step; a tie is wrong."""
        return tuple(margin > 0 for margin in self.margins)

    @property
    def changes(self) -> int:
        """How often it went from right to wrong or back."""
        return sum(a != b for a, b in zip(self.right, self.right[1:], strict=False))


@dataclass(frozen=True, slots=True)
class PairMargins:
    """The pairs of a run's evaluation set, with their margins."""

    pairs: tuple[HeldOutPair, ...] = ()
    margins: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """By step: the margin of each of ``pairs``, not a number where the file lacks it."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which pairs are told apart; at step 0 the policy usually equals its reference."""
        return tuple(
            step
            for step, margins in sorted(self.margins.items())
            if any(abs(margin) > _TIE for margin in margins)
        )

    def courses(self) -> list[Course]:
        """Return each pair with its margins at :attr:`steps`, of the pairs that have all of them."""
        steps = self.steps
        found = []
        for index, pair in enumerate(self.pairs if steps else ()):
            margins = tuple(self.margins[step][index] for step in steps)
            if not any(map(math.isnan, margins)):
                found.append(Course(pair, steps, margins))
        return found

    def last(self) -> dict[HeldOutPair, float]:
        """Return the margin of each pair at the last evaluation that tells pairs apart."""
        return {course.pair: course.margins[-1] for course in self.courses()}


@dataclass(frozen=True, slots=True)
class Movement:
    """What became of the pairs between the first and the last evaluation that tell them apart."""

    first_step: int
    last_step: int
    always_wrong: tuple[Course, ...]
    """Wrong at every evaluation; the most negative margin first."""
    became_right: tuple[Course, ...]
    became_wrong: tuple[Course, ...]
    unsteady: tuple[Course, ...]
    """Changed at least twice; the most changes first."""
    count: int
    accuracy: float
    """At the last step; a tie counts half, as everywhere."""


def movement(margins: PairMargins) -> Movement | None:
    """Return what became of the pairs; None without an evaluation that tells them apart."""
    courses = margins.courses()
    if not courses:
        return None
    by_margin = sorted(courses, key=lambda course: course.margins[-1])
    return Movement(
        first_step=courses[0].steps[0],
        last_step=courses[0].steps[-1],
        always_wrong=tuple(course for course in by_margin if not any(course.right)),
        became_right=tuple(c for c in reversed(by_margin) if not c.right[0] and c.right[-1]),
        became_wrong=tuple(c for c in by_margin if c.right[0] and not c.right[-1]),
        unsteady=tuple(sorted((c for c in courses if c.changes >= 2), key=lambda c: -c.changes)),
        count=len(courses),
        accuracy=sum((c.margins[-1] > 0) + (c.margins[-1] == 0) / 2 for c in courses) / len(courses),
    )


@dataclass(frozen=True, slots=True)
class Paired:
    """Two policies on the pairs that both scored."""

    both_right: int
    only_first: int
    """Right in the first run only."""
    only_second: int
    both_wrong: int
    same_set: bool
    """Whether both runs scored these pairs and no others."""

    @property
    def count(self) -> int:
        """Pairs that both runs scored."""
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test: how likely so uneven a split is where neither policy is better."""
        return sign_test(self.only_first, self.only_second)


def paired(first: PairMargins, second: PairMargins) -> Paired | None:
    """Compare two runs pair by pair, at the last evaluation of each; None where they share no pair."""
    one, two = first.last(), second.last()
    shared = one.keys() & two.keys()
    if not shared:
        return None
    counts = [0, 0, 0, 0]
    for pair in shared:
        counts[(one[pair] <= 0) * 2 + (two[pair] <= 0)] += 1
    return Paired(
        both_right=counts[0],
        only_first=counts[1],
        only_second=counts[2],
        both_wrong=counts[3],
        same_set=set(first.pairs) == set(second.pairs),
    )


def read_margins(folder: Path, files: RunFiles) -> PairMargins:
    """Read the folder ``evaluations/`` of a run."""

    def pair_of(values: dict[str, object]) -> HeldOutPair:
        prompt, chosen, rejected = (text_of(values, key) for key in ("prompt", "chosen", "rejected"))
        return HeldOutPair(integer_of(values, "row"), prompt, chosen, rejected, source_of(values))

    def source_of(values: dict[str, object]) -> str:
        return text_of(values, "source") if "source" in values else ""

    def score_of(values: dict[str, object]) -> tuple[str, int, float]:
        return source_of(values), integer_of(values, "row"), number_of(values, "margin")

    # A damaged line keeps its place, so that the lines of both files still belong together.
    pairs = list(files.lines(folder / "pairs.jsonl", pair_of))
    margins: dict[int, tuple[float, ...]] = {}
    for path in sorted(folder.glob("step-*.jsonl")) if pairs else ():
        named = NAME.fullmatch(path.stem)
        if named is None:
            continue
        scores = list(files.lines(path, score_of))
        margins[int(named[1])] = _aligned(pairs, scores)
    kept = [index for index, pair in enumerate(pairs) if pair is not None]
    return PairMargins(
        tuple(pair for pair in pairs if pair is not None),
        {step: tuple(values[index] for index in kept) for step, values in margins.items()},
    )


def _aligned(
    pairs: Sequence[HeldOutPair | None], scores: Sequence[tuple[str, int, float] | None]
) -> tuple[float, ...]:
    """Return a margin for each pair; not a number where its line is missing or of another row."""
    found = []
    for index, pair in enumerate(pairs):
        score = scores[index] if index < len(scores) else None
        fits = score is not None and (pair is None or score[:2] == (pair.source, pair.row))
        found.append(score[2] if fits and score is not None else math.nan)
    return tuple(found)
