"""What is mutated, and how a number of cases of it is run and counted."""

from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz import data_files, recipes, rows, run_files

#: Takes a case and says what became of it: "accepted", or the kind of error with which it was refused.
Check = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Area:
    """One kind of input."""

    cases: SearchStrategy[Any]
    check: Callable[[Path], Check]
    """Makes the check, which may use a folder of its own."""
    of_all: float
    """Share of the cases that are asked for of this area's group."""
    group: str
    """"recipes", "rows" or "run files"."""


AREAS = {
    "recipes": Area(recipes.DOCUMENTS, recipes.OfDocuments, 0.5, "recipes"),
    "recipes with an unknown key": Area(recipes.UNKNOWN_KEYS, recipes.OfDocuments, 0.2, "recipes"),
    "recipes as bytes": Area(recipes.TEXTS_OF_FILES, recipes.OfTexts, 0.2, "recipes"),
    "overrides": Area(recipes.OVERRIDES, recipes.OfOverrides, 0.1, "recipes"),
    "rows": Area(rows.ROWS, rows.OfRows, 0.8, "rows"),
    "data files": Area(data_files.FILES, data_files.OfFiles, 0.2, "rows"),
    "metrics": Area(run_files.METRICS, run_files.OfMetrics, 0.25, "run files"),
    "manifests": Area(run_files.MANIFESTS, run_files.OfManifests, 0.2, "run files"),
    "damaged checkpoints": Area(run_files.DAMAGES, run_files.OfDamages, 0.2, "run files"),
    "states": Area(run_files.STATES, run_files.OfStates, 0.15, "run files"),
    "summaries": Area(run_files.SUMMARIES, run_files.OfSummaries, 0.2, "run files"),
    "run folders": Area(run_files.RUN_FOLDERS, run_files.OfRunFolders, 0.1, "run files"),
}


def fuzz(
    area: Area,
    cases: int,
    folder: Path,
    before_each: Callable[[], None] = lambda: None,
    *,
    derandomize: bool = False,
) -> Counter[str]:
    """Run so many cases and return how many came to what; one that breaks something raises, made as small as can be."""
    counts = Counter[str]()

    @settings(
        max_examples=cases,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=area.cases)
    def run(case: Any) -> None:
        before_each()
        counts[check(case)] += 1

    with chdir(folder):  # what relative paths in a recipe are relative to
        check = area.check(folder)
        run()
    return counts
