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


#: The side that the others are compared with.
OURS = "dpotrain"


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
    if "roofline" in result:
        console.print(_roofline(result["roofline"], facts))
        console.print(
            _groups(result["groups_seconds_per_step"], result["groups_share_of_matrix_product_rate"])
        )
    for name, side in result["sides"].items():
        if "agreement" in side:
            console.print(_agreement(name, side["agreement"]))
    for name, reason in result["missing"].items():
        console.print(Text(f"{name}: not measured: {reason}", "yellow"))
    for name, side in result["sides"].items():
        for warning in side["rounds"][0].get("warnings", []) if side["rounds"] else []:
            console.print(Text(f"{name} warned: {warning}", "yellow"))
        if "error" in side:
            console.print(Text(f"{name} failed: {side['error']}", "red"))
    console.print(Text(facts["flops_formula"], "dim"))


def _figures(measured: dict[str, Any]) -> Table:
    ours = measured.get(OURS)
    caption = f"median (least to most) over rounds; x: {OURS}'s median over the column's"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("", min_width=14)
    for name in measured:
        table.add_column(name, justify="right")
    for figure, label, form, more_is_better in ROWS:
        if not any(figure in summary for summary in measured.values()):
            continue
        cells = []
        for name, summary in measured.items():
            lines = _spread(summary.get(figure), form)
            if ours is not None and name != OURS and more_is_better is not None:
                lines += _ratio(ours, summary, figure)
            cells.append("\n".join(lines))
        table.add_row(label, *cells)
    return table


def _spread(figure: dict[str, float] | None, form: str) -> list[str]:
    if figure is None:
        return ["-"]
    median, least, most = (form.format(figure[name]) for name in ("median", "min", "max"))
    return [median] if least == most else [median, f"({least} to {most})"]


def _ratio(ours: dict[str, Any], theirs: dict[str, Any], figure: str) -> list[str]:
    if figure not in ours or figure not in theirs:
        return []
    return [f"{ours[figure]['median'] / theirs[figure]['median']:.2f} x"]


def _agreement(name: str, found: dict[str, Any]) -> Text:
    losses, log_probs = (
        "of other steps" if found[key] is None else f"at most {found[key]:.1e} apart"
        for key in ("losses", "log_probs")
    )
    text = f"{name} and {OURS}, step by step: losses {losses}, mean log-probs {log_probs} (relative): "
    if found["same_work"]:
        return Text(text + "the same work")
    return Text(text + "not the same work, so that their speeds cannot be compared", "red")


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


def _roofline(rows: list[dict[str, Any]], facts: dict[str, Any]) -> Table:
    flops, memory = facts["matrix_product_flops_per_second"], facts["memory_bytes_per_second"]
    table = Table(
        title="dpotrain's step and the machine's limits",
        box=box.SIMPLE_HEAD,
        caption=f"rates: {flops / 1e9:,.0f} GFLOP/s in matrix products, {memory / 1e9:,.1f} GB/s of memory; GB and ms: "
        "the least that must move, and the least that this takes",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in ("ms", "GFLOP", "of rate", "GB", "of rate", "limit", "least ms"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["part"],
            _milliseconds(row["seconds"]),
            f"{row['flops'] / 1e9:,.1f}",
            f"{row['share_of_matrix_product_rate']:.1%}",
            f"{row['bytes'] / 1e9:,.2f}",
            f"{row['share_of_memory_rate']:.1%}",
            row["limit"],
            _milliseconds(row["least_seconds"]),
        )
    return table


def _groups(seconds: dict[str, dict[str, float]], shares: dict[str, float]) -> Table:
    table = Table(
        title="ms of dpotrain's last step by what operators do",
        box=box.SIMPLE_HEAD,
        caption="slowed by the profiler; of rate: of matrix products' rate",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    # Preparing data takes next to nothing.
    shown = {part: each for part, each in seconds.items() if part != "data"}
    for part in (*shown, "all", "share", "of rate"):
        table.add_column(part, justify="right")
    whole = sum(sum(groups.values()) for groups in shown.values())
    for group in next(iter(shown.values())):
        each = [groups[group] for groups in shown.values()]
        share = f"{sum(each) / whole:.0%}" if whole else ""
        reached = f"{shares[group]:.0%}" if group in shares else ""
        table.add_row(group, *(_milliseconds(part) for part in (*each, sum(each))), share, reached)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.1f}"
