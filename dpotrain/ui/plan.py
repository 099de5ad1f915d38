"""The output of ``dpotrain plan``."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, duration, megabytes, printable, rate
from dpotrain.run.building.run_info import LIMITS
from dpotrain.run.planning.plan import Plan
from dpotrain.ui.console import open_console
from dpotrain.ui.fitting import Fitting


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print on standard output (or ``console``) memory, steps, time and, where it does not fit, what to change."""
    console = open_console() if console is None else console
    console.print(Group(*_view(plan)), soft_wrap=True)


def _size(value: float) -> str:
    return megabytes(value / 2**20)


def _view(plan: Plan) -> Iterator[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("memory")
    table.add_column(justify="right", no_wrap=True)
    for name, held in plan.parts.items():
        table.add_row(name, _size(held))
    table.add_section()
    style = "green" if plan.fits else "bold red"
    table.add_row("at the peak", Text(_size(plan.needed), style=style))
    table.add_row(Text(f"available on {printable(plan.device)}"), _size(plan.memory))
    yield Fitting(table)
    for label, value in _lines(plan):
        yield Text.assemble((f"  {label:<12} ", "dim"), value)
    if not plan.fits:
        yield Text()
        yield Text("It does not fit. These changes save memory, in the order to try:", style="bold")
        for remedy in plan.remedies:
            yield Text(f"  {remedy.what}: {_size(remedy.saves)} less")


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "training", f"{count(plan.trained_parameters)} of {count(plan.parameters)} parameters"
    # A pair cannot be split: where the longest exceeds the budget, it is a micro-batch of its own.
    most = f"at most {count(plan.tokens_per_microbatch)} tokens ({LIMITS[plan.limit]})"
    holds = most if plan.tokens_per_microbatch > 1 else "every pair by itself"
    layout = "packed" if plan.packed else "padded"
    yield "micro-batch", f"{holds}, {layout}; the longest pair has {count(plan.longest_pair)}"
    if plan.checkpointed_layers:
        yield "checkpointed", f"{plan.checkpointed_layers} of {plan.layers} layers"
    steps = f"{count(plan.steps)} of {count(plan.pairs_per_step)} pairs, of {count(plan.pairs)} pairs"
    each = f"{plan.microbatches_per_step:.3g}"
    yield "steps", f"{steps}; about {each} micro-batch{'' if each == '1' else 'es'} a step"
    if plan.seconds is not None and plan.tokens_per_second is not None:
        yield "time", f"about {duration(plan.seconds)}, at {rate(plan.tokens_per_second)} tokens/s"
    if plan.finished_run is not None:
        measured = plan.finished_run.get("peak_memory_mb_measured", 0.0)
        predicted = plan.finished_run.get("peak_memory_mb_predicted", 0.0)
        yield "last run", f"took {megabytes(measured)}, predicted {megabytes(predicted)}"
