"""``dpotrain watch``: the view of a run elsewhere, from its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from dpotrain.core.controls import Controls
from dpotrain.core.errors import RunError
from dpotrain.core.formats import count, duration
from dpotrain.core.records import Outcome
from dpotrain.report.following import Follower, News, Status
from dpotrain.report.resume_command import resume_command
from dpotrain.run.folder.requests import Request, request
from dpotrain.ui.console import open_console
from dpotrain.ui.dashboard import Screen, dashboard
from dpotrain.ui.live import FULL_SIZE, LiveReporter
from dpotrain.ui.plain import PlainReporter
from dpotrain.ui.state import Microbatches, PhaseState, Tracker, ViewState
from dpotrain.ui.summary import summary
from dpotrain.ui.view import picture

#: Seconds between two looks at the folder.
LOOK_SECONDS = 1.0


class RemoteControls(Controls):
    """Writes what is asked into the run's folder, for its process to find."""

    def __init__(self, run: Path, failed: Callable[[str], None]) -> None:
        """``failed`` is told why a request cannot be written."""
        super().__init__()
        self._run = run
        self._failed = failed

    def save(self) -> None:  # noqa: D102
        self._request("save")

    def evaluate(self) -> None:  # noqa: D102
        self._request("evaluate")

    def stop(self, reason: str) -> None:  # noqa: D102
        super().stop(reason)
        self._request("stop")

    def _request(self, what: Request) -> None:
        try:
            request(self._run, what)
        except OSError as error:
            self._failed(
                f"cannot ask the run to {what}: {self._run} cannot be written ({error.strerror or error})"
            )


def watch(
    run: Path, *, plain: bool = False, once: bool = False, console: Console | None = None
) -> Outcome | None:
    """Show a run until it ends, or ``once``, and return how it ended; None where it goes on without being watched.

    Raises:
        RecipeError: there is no run in ``run``.
        RunError: the run's process was killed.
    """
    console = open_console() if console is None else console
    follower = Follower(run)
    if once:
        return _show_once(follower, console)
    from dpotrain.ui import is_live

    if plain or not is_live(console):
        return _follow_plainly(follower, PlainReporter(console.file))
    return _follow(follower, console)


def apply(status: Status, state: ViewState) -> None:
    """Take over into a view's state what a run's status says; its clock is that of :func:`time.time`."""
    values = status.values
    state.begun = status.number("began", state.begun)
    state.epoch = status.number("epoch")
    state.pace.step, state.pace.total_steps = int(status.number("step")), int(status.number("total_steps"))
    left = values.get("seconds_left")
    state.told_left = (
        left - (time.time() - status.number("updated")) if isinstance(left, int | float) else None
    )
    state.told_step_seconds = status.number("step_seconds", float("nan"))
    title, info = values.get("title"), values.get("info")
    if isinstance(title, str) and isinstance(info, dict) and title and not state.title:
        state.begin(title, {str(label): str(value) for label, value in info.items()})
    state.phases = []
    for phase in values.get("phases") or []:
        with suppress(KeyError, TypeError, ValueError):
            total = None if phase["total"] is None else int(phase["total"])
            state.phases.append(
                PhaseState(str(phase["name"]), total, float(phase["began"]), int(phase["done"]))
            )
    state.microbatches = None
    with suppress(TypeError, ValueError):
        step, done, total = values.get("microbatch")  # type: ignore[misc]
        state.microbatches = Microbatches(
            int(step), int(done), int(total), status.number("step_began", time.time())
        )


def take(news: News, tracker: Tracker) -> None:
    """Take over into a view what is new of a run."""
    tracker.resumed(news.records, news.samples)
    for warning in news.warnings:
        tracker.warn(warning)
    if news.checkpoint is not None:
        tracker.checkpoint(news.checkpoint)
    apply(news.status, tracker.state)


def _follow(follower: Follower, console: Console) -> Outcome | None:
    live = LiveReporter(console, time.time)
    live.screen.watches = True
    controls = RemoteControls(follower.folder.path, live.warn)
    with live:
        while True:
            news = follower.look()
            if news.restarted:
                live.restart()
            take(news, live)
            live.state.controls = controls if news.status.values.get("takes_requests") else None
            if _has_ended(follower, news.status):
                break
            with suppress(KeyboardInterrupt):
                if not live.left.wait(LOOK_SECONDS):
                    continue
            return None
    return _show_end(follower, news.status, lambda outcome: console.print(summary(outcome), crop=False))


def _follow_plainly(follower: Follower, reporter: PlainReporter) -> Outcome | None:
    phases: set[tuple[str, float]] = set()
    told = False
    while True:
        news = follower.look()
        values = news.status.values
        if values.get("title") and not told:
            reporter.started(str(values["title"]), {str(k): str(v) for k, v in dict(values["info"]).items()})
            told = True
        for phase in values.get("phases") or []:
            if (key := (str(phase.get("name")), float(phase.get("began", 0.0)))) not in phases:
                phases.add(key)
                reporter.note(key[0])
        for record in news.records:
            reporter.logged(record)
        for samples in news.samples:
            reporter.samples(samples)
        for warning in news.warnings:
            reporter.warn(warning)
        if news.checkpoint is not None:
            reporter.checkpoint(news.checkpoint)
        if _has_ended(follower, news.status):
            return _show_end(follower, news.status, reporter.finished)
        try:
            time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            return None


def _show_once(follower: Follower, console: Console) -> Outcome | None:
    """Print one picture of the run as it is now."""
    tracker = Tracker(time.time)
    news = follower.look()
    take(news, tracker)
    width, height = console.width, console.height
    if console.is_terminal and width >= FULL_SIZE[0] and height >= FULL_SIZE[1]:
        block = dashboard(tracker.state, Screen(keys=False), time.time(), width, height - 1)[:-1]
        while block and not block[-1].plain.strip():
            block.pop()
    else:
        block = [
            Text(tracker.state.title or str(follower.folder.path)),
            *picture(tracker.state, time.time(), width),
        ]
    console.print(Text("\n").join(block), soft_wrap=True)
    if _has_ended(follower, news.status):
        return _show_end(follower, news.status, lambda outcome: console.print(summary(outcome), crop=False))
    return None


def _has_ended(follower: Follower, status: Status) -> bool:
    if status.values:
        return status.state != "running" or status.is_gone(time.time())
    return follower.outcome() is not None  # a run of a version that wrote no status


def _show_end(follower: Follower, status: Status, show: Callable[[Outcome], None]) -> Outcome | None:
    if status.state == "running":
        _raise_killed(follower, status)
    outcome = follower.outcome()
    if outcome is None:
        raise RunError(
            f"the run {status.state} before its first step; {follower.folder.log} says what happened"
        )
    show(outcome)
    return outcome


def _raise_killed(follower: Follower, status: Status) -> NoReturn:
    ago = duration(time.time() - status.number("updated"))
    step = int(status.number("step"))
    when = f"after step {count(step)}" if step else "before its first step"
    saved = follower.checkpoint_step
    resume = f"go on with: {resume_command(follower.folder.path, status.values)}"
    where = (
        "no checkpoint: it begins anew" if saved is None else f"from the checkpoint of step {count(saved)}"
    )
    raise RunError(
        f"the run was killed {when}: {status.process()} is gone, last heard of {ago} ago\n{resume} ({where})"
    )
