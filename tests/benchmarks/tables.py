"""The comparison as a person reads it."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Figure, what it is called, how it is written, and whether more is better (None: not compared).
ROWS: tuple[tuple[str, str, str, bool | None], ...] = (
    ("pairs_per_second", "pairs/s", "{:,.3g}", True),
    ("first_epoch_pairs_per_second", "pairs/s, first epoch with its reference pass", "{:,.3g}", True),
    ("later_epochs_pairs_per_second", "pairs/s, later epochs", "{:,.3g}", True),
    ("tokens_per_second", "real tokens/s", "{:,.0f}", True),
    ("model_flops_per_second", "model FLOP/s", "{:.3g}", None),
    ("share_of_matrix_product_rate", "share of matrix products' rate", "{:.1%}", None),
    ("reference_seconds", "reference pass before training, s", "{:.3g}", None),
    ("peak_resident_mb", "peak resident memory, MB", "{:,.0f}", False),
    ("peak_cuda_allocated_mb", "peak CUDA memory allocated, MB", "{:,.0f}", False),
    ("peak_cuda_reserved_mb", "peak CUDA memory reserved, MB", "{:,.0f}", False),
)
NAMES = {"dpotrain": "dpotrain", "trl": "TRL"}


def show(result: dict[str, Any], console: Console) -> None:
    """Print what was measured, on what, and what could not be."""
    work, facts = result["workload"], result["facts"]
    tokens, machine = facts["mean_tokens"], facts["machine"]
    console.print(
        f"{result['model']}: {work['mode']}, {work['precision']}, {work['pairs']} pairs of "
        f"{tokens['prompt']:.0f} + {tokens['chosen']:.0f} + {tokens['rejected']:.0f} tokens on average, "
        f"{work['pairs_per_step']} a step, {work['epochs']} epoch{'s' * (work['epochs'] > 1)}",
        highlight=False,
    )
    console.print(
        f"on {machine['gpu'] or machine['cpu']}, {machine['threads']} threads, "
        f"{facts['matrix_product_flops_per_second']:.3g} FLOP/s in matrix products",
        highlight=False,
    )
    measured = {name: side["summary"] for name, side in result["sides"].items() if "summary" in side}
    if measured:
        console.print(_figures(measured))
    if "phases_seconds_per_step" in result:
        console.print(_phases(result["phases_seconds_per_step"]))
    if "largest_loss_difference" in result:
        difference = result["largest_loss_difference"]
        told = "they took different steps" if difference is None else f"at most {difference:.1e} apart"
        console.print(f"losses, step by step: {told}", highlight=False)
    for name, reason in result["missing"].items():
        console.print(Text(f"{NAMES[name]}: not measured: {reason}", "yellow"))
    for name, side in result["sides"].items():
        for warning in side["rounds"][0].get("warnings", []) if side["rounds"] else []:
            console.print(Text(f"{NAMES[name]} warned: {warning}", "yellow"))
        if "error" in side:
            console.print(Text(f"{NAMES[name]} failed: {side['error']}", "red"))
    console.print(Text(facts["flops_formula"], "dim"))


def _figures(measured: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption="median (least to most) over rounds", caption_justify="left")
    table.add_column("", overflow="fold")
    for name in measured:
        table.add_column(NAMES[name], justify="right")
    both = len(measured) > 1
    if both:
        table.add_column("ratio", justify="right")
    for figure, label, form, more_is_better in ROWS:
        sides = [summary.get(figure) for summary in measured.values()]
        if not any(sides):
            continue
        cells = [_spread(each, form) for each in sides]
        if both:
            cells.append(_ratio(measured, figure) if more_is_better is not None else "")
        table.add_row(label, *cells)
    return table


def _spread(figure: dict[str, float] | None, form: str) -> str:
    if figure is None:
        return "-"
    median, least, most = (form.format(figure[name]) for name in ("median", "min", "max"))
    return median if least == most else f"{median} ({least} to {most})"


def _ratio(measured: dict[str, Any], figure: str) -> str:
    try:
        ours, theirs = (measured[name][figure]["median"] for name in ("dpotrain", "trl"))
    except KeyError:
        return ""
    return f"{ours / theirs:.2f}"


def _phases(seconds: dict[str, float]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, caption="of a run of its own, slowed by being looked at", caption_justify="left"
    )
    table.add_column("dpotrain's step")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for phase, each in seconds.items():
        table.add_row(phase, f"{1000 * each:,.2f}", f"{each / seconds['step in all']:.1%}")
    return table
