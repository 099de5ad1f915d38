"""The page that ``dpotrain report`` writes."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from dpotrain.core.formats import printable
from dpotrain.core.version import __version__
from dpotrain.report.charts import charts_of, charts_of_all
from dpotrain.report.comparison import compare
from dpotrain.report.past_run import PastRun
from dpotrain.ui.figures import FIGURES
from dpotrain.ui.page.drawing import draw
from dpotrain.ui.page.palette import stylesheet
from dpotrain.ui.page.texts import comparison_of, run_of, samples_of, samples_of_all

_FOLDER = resources.files(__package__)


def page(runs: Sequence[PastRun], now: float | None = None) -> str:
    """Return an HTML page about one run, or one that compares several; ``now`` is in seconds since 1970.

    The page needs no network and no other file. Texts of data and models are escaped, and a policy in the page lets
    the browser run the page's own script only.
    """
    script = _FOLDER.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content = _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)
    return _template().render(
        content,
        figures=FIGURES,
        version=__version__,
        # Both are files of this package, and no text of a run is in them.
        style=Markup(stylesheet() + "\n" + _FOLDER.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime(now)),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dpotrain.ui.page", ""),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _printable(value: object) -> object:
    """Take control characters out of every text that the templates print."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _of_one(run: PastRun) -> Mapping[str, Any]:
    shown, charts, samples = run_of(run), [draw(chart) for chart in charts_of(run)], samples_of(run)
    return {
        "title": shown["name"],
        "subtitle": str(run.path),
        "run": shown,
        "comparison": None,
        "charts": charts,
        "samples": samples,
        "sections": _named(
            ("curves", "Curves", charts),
            ("evaluations", "Evaluations", shown["evaluations"]),
            ("pairs", "Pairs", shown["pairs"]),
            *((f"section-{n}", each["title"], True) for n, each in enumerate(shown["sections"], start=1)),
            ("samples", "Samples", samples),
            ("data", "Data", shown["data"]),
            ("recipe", "Recipe", True),
            ("environment", "Environment", shown["environment"]),
        ),
    }


def _of_several(runs: Sequence[PastRun]) -> Mapping[str, Any]:
    found = compare(runs)
    charts, samples = [draw(chart) for chart in charts_of_all(runs, found.names)], samples_of_all(found)
    return {
        "title": f"{len(runs)} runs compared",
        "subtitle": ", ".join(found.names),
        "run": None,
        "comparison": comparison_of(found),
        "charts": charts,
        "samples": samples,
        "sections": _named(
            ("result", "Results", True),
            ("differences", "Recipes", True),
            ("curves", "Curves", charts),
            ("samples", "Samples", samples),
            ("runs", "Each run", True),
        ),
    }


def _named(*sections: tuple[str, str, object]) -> list[tuple[str, str]]:
    """Return id and label of the sections that have something in them."""
    return [(id_, label) for id_, label, content in sections if content]
