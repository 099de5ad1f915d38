"""The output of ``dpotrain plan``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpotrain.core.formats import count, duration, megabytes, plural, printable, rate
from dpotrain.run.building.run_info import LIMITS
from dpotrain.run.planning.changes import Changes, SmallestGpus
from dpotrain.run.planning.devices import Devices
from dpotrain.run.planning.duration import Duration
from dpotrain.run.planning.plan import Plan
from dpotrain.ui.console import open_console
from dpotrain.ui.fitting import Fitting


def print_plan(plan: Plan, console: Console | None = None, command: Sequence[str] = ("RECIPE",)) -> None:
    """Print on standard output (or ``console``) memory, steps, time and, where it does not fit, what to change.

    ``command`` is what follows ``dpotrain plan`` on the command line: the recipe and its overrides.
    """
    console = open_console() if console is None else console
    console.print(Group(*_view(plan, command)), soft_wrap=True)


def _size(value: float) -> str:
    return megabytes(value / 2**20)


def _view(plan: Plan, command: Sequence[str]) -> Iterator[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("memory" if plan.devices is None else "memory of each device")
    table.add_column(justify="right", no_wrap=True)
    for name, held in plan.parts.items():
        table.add_row(name, _size(held))
    table.add_section()
    style = "green" if plan.fits else "bold red"
    table.add_row("peak memory", Text(_size(plan.needed), style=style))
    table.add_row(Text(f"available on {printable(plan.device)}"), _size(plan.memory))
    yield Fitting(table)
    if plan.devices is not None:
        yield _layouts(plan.devices)
    for label, value in _lines(plan):
        yield Text.assemble((f"  {label:<12} ", "dim"), value)
    if not plan.fits_disk:
        yield Text()
        yield Text(
            "The disk is too full for it: free space there, or set run.output_dir or checkpoints.keep.",
            "bold red",
        )
    if plan.fits:
        return
    yield Text()
    if plan.devices is not None and (layouts := list(_layouts_that_fit(plan.devices, command))):
        yield from layouts
    elif plan.changes is not None:
        yield Text(f"It does not fit. With these changes it would; {_results(plan.changes)}:", style="bold")
        yield Text(f"  {_command(command, plan.changes.overrides, plan.devices)}")
    else:
        if plan.devices is not None and plan.devices.fewest is not None:
            fewest = f'It would fit on {plan.devices.fewest} such devices, with parallel.shard = "all".'
            yield Text(fewest, style="bold")
        yield Text("It does not fit. What each change by itself would save:", style="bold")
        for remedy in plan.remedies:
            yield Text(f"  {remedy.what}: {_size(remedy.saves)} less")


def _layouts(devices: Devices) -> Fitting:
    """Return what the run takes as it is and in other layouts, a row each."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(f"over {plural(devices.count, 'device')}")
    for name in ("memory of each", "longest pair", "sends a step", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("with")
    for way in devices.ways:
        speed = way.tokens_per_second
        unknown = "unknown" if way.fits else "-"
        table.add_row(
            way.layout,
            Text(_size(way.needed), style="green" if way.fits else "bold red"),
            count(way.longest_pair),
            _size(way.exchange.total),
            unknown if speed is None else rate(speed),
            "as it is" if way.chosen else " ".join(f"--set {each}" for each in way.overrides),
        )
    return Fitting(table)


def _layouts_that_fit(devices: Devices, command: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the layouts in which a run fits that does not as it is."""
    fitting = [way for way in devices.ways if way.fits]
    if fitting:
        yield Text("It does not fit. In these layouts it would; results stay the same:", style="bold")
        yield from (Text(f"  {_command(command, way.overrides, devices)}") for way in fitting)


def _results(changes: Changes) -> str:
    return "results stay the same" if changes.same_results else "they change what is computed"


def _command(command: Sequence[str], overrides: Sequence[str], devices: Devices | None) -> str:
    recipe, *given = command
    changed = {_key(each) for each in overrides}
    # Of each pair of words, the first is --set.
    kept = [each for each in given[1::2] if _key(each) not in changed]
    settings = [word for each in (*kept, *overrides) for word in ("--set", each)]
    return shlex.join(["dpotrain", "run", recipe, *_launched(devices), *settings])


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _launched(devices: Devices | None) -> Iterator[str]:
    """Yield the options that start a process for each device."""
    if devices is None:
        return
    yield from ("--processes", str(devices.machine))
    if devices.count > devices.machine:
        machines = -(-devices.count // devices.machine)
        yield from ("--machines", str(machines), "--rendezvous", "HOST:PORT")


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "training", f"{count(plan.trained_parameters)} of {count(plan.parameters)} parameters"
    # A pair cannot be split: where the longest exceeds the budget, it is a micro-batch of its own.
    most = f"at most {count(plan.tokens_per_microbatch)} tokens ({LIMITS[plan.limit]})"
    holds = most if plan.tokens_per_microbatch > 1 else "every pair by itself"
    layout = "packed" if plan.packed else "padded"
    yield "micro-batch", f"{holds}, {layout}; the longest pair has {count(plan.longest_pair)}"
    if plan.checkpointed_layers:
        tiles = f"; longer rows in tiles of {count(plan.tile_tokens)} tokens" if plan.tile_tokens else ""
        yield "checkpointed", f"{plan.checkpointed_layers} of {plan.layers} layers{tiles}"
    if plan.host_memory:
        yield (
            "host memory",
            f"{_size(plan.host_memory)} in each process for what its device does not hold",
        )
    if plan.gathered:
        yield (
            "" if plan.host_memory else "host memory",
            f"{_size(plan.gathered)} in the main process, where each checkpoint is gathered",
        )
    if (devices := plan.devices) is not None:
        yield "devices", f"{devices.count}: {devices.reason or devices.layout}"
        if devices.cannot_shard:
            yield "", f"weights stay whole: {devices.cannot_shard}"
        yield "links", _links(devices)
    steps = f"{count(plan.steps)} of {count(plan.pairs_per_step)} pairs, of {count(plan.pairs)} pairs"
    each = f"{plan.microbatches_per_step:.3g}"
    twice = ", scored twice" if plan.first_passes else ""
    on_each = "" if devices is None else " on each device"
    yield "steps", f"{steps}; about {each} micro-batch{'' if each == '1' else 'es'} a step{on_each}{twice}"
    if plan.duration is not None:
        yield from _time(plan, plan.duration)
    parts = ", ".join(f"{name} {_size(size)}" for name, size in plan.disk.items())
    yield "disk", f"{_size(sum(plan.disk.values()))} of {_size(plan.disk_free)} that are free: {parts}"
    if plan.gpus is not None:
        yield "GPU", _gpus(plan.gpus, "" if devices is None else f"{devices.count} of ")
    if plan.finished_run is not None:
        measured = plan.finished_run.get("peak_memory_mb_measured", 0.0)
        predicted = plan.finished_run.get("peak_memory_mb_predicted", 0.0)
        yield "last run", f"peak memory {megabytes(measured)}, predicted {megabytes(predicted)}"


def _time(plan: Plan, time: Duration) -> Iterator[tuple[str, str]]:
    parts = [f"training {duration(time.training)} at {rate(time.tokens_per_second)} tokens/s"]
    if time.reference:
        parts.append(f"reference {duration(time.reference)}")
    if time.evaluations:
        each = f"{time.evaluations} evaluation{'s' * (time.evaluations > 1)} of {duration(time.evaluation)}"
        parts.append(each)
    if time.samples:
        parts.append(f"samples {time.samples} times {duration(time.sample)} at most")
    if time.loading is not None:
        parts.append(f"loading {duration(time.loading)}")
    yield "time", f"about {duration(time.total)}: {', '.join(parts)}"
    known = [duration(time.before_training)] if time.before_training else []
    loading = ["the time to load, which no run here has measured"] if time.loading is None else []
    yield "first step", f"after about {' and '.join([*known, *loading])}"
    yield "", _source(plan)


def _source(plan: Plan) -> str:
    """Return where the speed is from."""
    if runs := plan.measured_runs:
        return f"speed and memory as {runs} run{'s' * (runs > 1)} of this model here measured them"
    each = f"{(plan.operations or 0) / 1e12:.3g} TFLOP/s of each device"
    return {
        "measured": f"speed is computed from {each}, which runs of this model measured, and from what is sent",
        "estimated": "speed and memory are estimated; a run here measures them for the next plan",
        "given": f"speed is computed from {each} (--tflops)",
        "assumed": f"speed is computed from {each}, which an A100 reaches; --tflops sets another number",
    }[plan.speed_from]


def _links(devices: Devices) -> str:
    inside, across = (f"{each / 1e9:.3g} GB/s" for each in (devices.links.inside, devices.links.across))
    if devices.count <= devices.machine:
        return f"{inside} of each device (--link sets another number)"
    return f"{inside} of each device among {devices.machine} of a machine, {across} between machines (see --link)"


def _gpus(gpus: SmallestGpus, number: str) -> str:
    as_is = "none of the common sizes as it is" if gpus.as_is is None else f"{number}{gpus.as_is} GB as it is"
    if gpus.with_changes is None or gpus.changes is None:
        return as_is
    settings = " ".join(f"--set {shlex.quote(each)}" for each in gpus.changes.overrides)
    return f"{as_is}, {number}{gpus.with_changes} GB with {settings} ({_results(gpus.changes)})"
