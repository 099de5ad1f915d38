"""The output of ``dpotrain show``: a run in the terminal, from its folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from dpotrain.core.formats import count, duration, interval, megabytes, number, plural, printable, rate
from dpotrain.report.charts import charts_of
from dpotrain.report.comparison import interval_of
from dpotrain.report.facts import facts
from dpotrain.report.margins import Course, movement
from dpotrain.report.past_run import PastRun
from dpotrain.report.resume_command import resume_command
from dpotrain.ui.console import open_console
from dpotrain.ui.figures import FIGURES, accuracy_with_interval, by_source
from dpotrain.ui.fitting import Fitting
from dpotrain.ui.judgement import CHOSEN_REWARDS_FALL, chosen_rewards_fall
from dpotrain.ui.output import print_view, width_of
from dpotrain.ui.run_charts import FILE_WIDTH, chart_lines
from dpotrain.ui.runs_table import STATE_STYLES

#: Charts that are worth a terminal's room, by their key.
_SHOWN = ("loss", "accuracy", "margin", "rewards")
_MOST_PAIRS = 5
_MOST_PROMPTS = 8
_TEXT = 300
_ANSWER_STYLES = {"prompt": "", "chosen": "green", "rejected": "magenta"}


def print_run(run: PastRun, console: Console | None = None) -> None:
    """Print a run on standard output (or ``console``); lines are wrapped on a terminal only."""
    console = open_console() if console is None else console
    print_view(Group(*_view(run, width_of(console) or FILE_WIDTH)), console)


def heading(run: PastRun) -> Text:
    """Return the state of a run in a line."""
    total = f" of {count(run.total_steps)}" if run.total_steps and run.total_steps != run.step else ""
    steps = "step" if total or run.step == 1 else "steps"
    at = f"at step {count(run.step)}{total}" if total else f"after {count(run.step)} {steps}"
    took = f" in {duration(run.outcome.seconds)}" if run.outcome is not None and run.outcome.seconds else ""
    return Text.assemble((run.state, f"bold {STATE_STYLES[run.state]}"), f" {at}{took}")


def _view(run: PastRun, width: int) -> Iterator[RenderableType]:
    yield Text.assemble((run.path.absolute().name, "bold"), "  ", heading(run))
    for label, text in facts(run).items():
        yield _labelled(label, text)
    yield from _ended(run)
    yield Text()
    drawn = [one for one in charts_of(run) if one.key in _SHOWN and any(len(c.steps) > 1 for c in one.curves)]
    yield from chart_lines(drawn, width)
    yield from _evaluations(run)
    yield from _pairs(run)
    yield from _samples(run)
    yield from _data(run)
    yield from _after(run)


def _ended(run: PastRun) -> Iterator[RenderableType]:
    train = run.train[-1].metrics if run.train else {}
    of = run.outcome
    values = {
        "pairs/s": of.pairs_per_second if of else train.get("pairs_per_second", 0.0),
        "tokens/s": of.tokens_per_second if of else train.get("tokens_per_second", 0.0),
    }
    speed = [f"{rate(value)} {unit}" for unit, value in values.items() if value > 0]
    memory = of.peak_memory_mb if of else train.get("peak_memory_mb", 0.0)
    speed += [f"peak memory {megabytes(memory)}"] if memory > 0 else []
    if speed:
        yield _labelled("speed", ", ".join(speed))
    if run.checkpoints:
        shown = ", ".join(map(count, run.checkpoints[-6:]))
        yield _labelled("checkpoints", ("…, " if len(run.checkpoints) > 6 else "") + shown)
    if run.texts:
        logged = ", ".join(f"{name} ({plural(tables, 'table')})" for name, tables in run.texts.items())
        yield _labelled("texts", f"{logged}, in texts.jsonl")
    if of is not None and of.error:
        yield _labelled("error", of.error, "red")
    for problem in run.problems:
        yield _labelled("unreadable", problem, "yellow")


def _evaluations(run: PastRun) -> Iterator[RenderableType]:
    if not run.evaluations:
        yield Text("no evaluation yet" if run.state == "running" else "no evaluation", style="dim")
        yield Text()
        return
    names = [figure.short for figure in FIGURES]
    names.insert(2, "95 % interval")
    table = Table(
        Column("step", justify="right", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in names),
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False,
    )  # fmt: skip
    title, best = "evaluations", _best(run)
    for record in run.evaluations:
        has = record.metrics
        cells = [figure.write(has[figure.metric]) if figure.metric in has else "" for figure in FIGURES]
        cells.insert(2, interval(*interval_of(run, record)))
        table.add_row(count(record.step), *cells, style="bold" if record.step == best else "")
    if best is not None and run.outcome is not None:
        title += f"; the best by {run.outcome.best_by} is that of step {count(best)}"
    yield Text(title, style="bold underline")
    yield Fitting(table)
    yield from _by_source(run)
    if chosen_rewards_fall(run.evaluations[0].metrics, run.evaluations[-1].metrics):
        yield Text(CHOSEN_REWARDS_FALL, style="dim")
        yield Text()


def _by_source(run: PastRun) -> Iterator[RenderableType]:
    """Yield the last evaluation by the sources of a mixture."""
    last = run.evaluations[-1]
    found = by_source(last.metrics)
    if not found:
        return
    table = Table(
        Column(f"step {count(last.step)}", overflow="fold"),
        *(Column(figure.short, justify="right", no_wrap=True) for figure in FIGURES),
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for label, metrics in found.items():
        table.add_row(Text(printable(label)), *(figure.write(metrics[figure.metric]) for figure in FIGURES))
    yield Fitting(table)


def _best(run: PastRun) -> int | None:
    """Return the step of the best of several evaluations."""
    if run.outcome is None or len(run.evaluations) < 2 or "step" not in run.outcome.best_evaluation:
        return None
    return int(run.outcome.best_evaluation["step"])


def _pairs(run: PastRun) -> Iterator[RenderableType]:
    moved = movement(run.margins)
    if moved is None:
        return
    yield Text("held-out pairs", style="bold underline")
    yield Text(f"step {count(moved.last_step)}: {accuracy_with_interval(moved.accuracy, moved.count)}")
    if moved.first_step != moved.last_step:
        yield Text(
            f"since step {count(moved.first_step)}: {count(len(moved.became_right))} became right, "
            f"{count(len(moved.became_wrong))} became wrong, {count(len(moved.always_wrong))} were never right, "
            f"{count(len(moved.unsteady))} changed at least twice"
        )
    yield from _courses("never right", moved.always_wrong)
    yield from _courses("became wrong", moved.became_wrong)
    yield Text()


def _courses(title: str, courses: Sequence[Course]) -> Iterator[RenderableType]:
    if not courses:
        return
    of = f", the first {_MOST_PAIRS} of {count(len(courses))}" if len(courses) > _MOST_PAIRS else ""
    yield Text(f"{title}{of}", style="bold")
    for course in courses[:_MOST_PAIRS]:
        pair = course.pair
        margins = " → ".join(dict.fromkeys(number(course.margins[place]) for place in (0, -1)))
        yield Text.assemble((f"  {printable(pair.place)}", "dim"), ("  margin ", "dim"), margins)
        for label, style in _ANSWER_STYLES.items():
            yield _labelled(f"  {label}", _short(getattr(pair, label), 120), style)


def _samples(run: PastRun) -> Iterator[RenderableType]:
    if not run.samples:
        return
    first, last = run.samples[0], run.samples[-1]
    yield Text("samples", style="bold underline")
    answers = {sample.prompt: sample.answer for sample in first.samples}
    for sample in last.samples[:_MOST_PROMPTS]:
        yield Text.assemble(("> ", "dim"), (_short(sample.prompt), "bold"))
        if last is not first and sample.prompt in answers:
            yield _labelled(f"step {count(first.step)}", _short(answers[sample.prompt]), "dim")
        yield _labelled(f"step {count(last.step)}", _short(sample.answer))
    more = len(last.samples) - _MOST_PROMPTS
    if more > 0:
        yield Text(f"{count(more)} more prompts are in samples.jsonl", style="dim")
    yield Text()


def _data(run: PastRun) -> Iterator[RenderableType]:
    if run.data is None:
        return
    yield Text("data", style="bold underline")
    for warning in run.data.warnings():
        yield Text.assemble(("warning: ", "bold yellow"), printable(warning))
    for line in run.data.summary_lines():
        yield Text(printable(line))
    yield Text()


def _after(run: PastRun) -> Iterator[RenderableType]:
    path = shlex.quote(str(run.path))
    if run.outcome is not None and run.outcome.how_to_load:
        yield Text("load it", style="bold underline")
        yield Text(printable(run.outcome.how_to_load), style="cyan", no_wrap=True, overflow="ignore")
        yield Text()
    if run.state in ("stopped", "interrupted", "failed", "killed") and run.checkpoints:
        yield _command("resume", resume_command(run.path, run.status))
    if run.state == "running":
        yield _command("watch it", f"dpotrain watch {path}")
    if run.outcome is not None and run.outcome.final is not None:
        yield _command("talk to it", f"dpotrain chat {path}")
    yield _command("as a page", f"dpotrain report {path}")


def _short(text: str, most: int = _TEXT) -> str:
    text = " ".join(printable(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _command(label: str, text: str) -> Text:
    """Return a labelled command, which is not wrapped, so that it can be copied."""
    return Text.assemble((f"  {label:<10} ", "dim"), printable(text), no_wrap=True, overflow="ignore")


def _labelled(label: str, text: str, style: str = "") -> Table:
    """Return a label with its text beside it, wrapped in a column of its own."""
    grid = Table.grid(Column(style="dim", no_wrap=True, min_width=12), Column(), padding=(0, 1, 0, 0))
    grid.add_row(f"  {printable(label)}", Text(printable(text), style=style))
    return grid
