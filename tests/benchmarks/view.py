"""What the live view costs: ``python -m tests.benchmarks.view``.

The view's thread draws once a second, or less often where that would take more than its share of a processor. The run's
own thread pays for the calls of a step alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from dpotrain.ui.dashboard import Screen, dashboard
from dpotrain.ui.live import REDRAW_SECONDS
from dpotrain.ui.paint import FullScreen, Ink
from dpotrain.ui.series import MOST_POINTS
from dpotrain.ui.state import Tracker
from tests.ui.records import Clock, show_start, show_steps, step

TIMES = 50


def seconds(act: Callable[[], object]) -> float:
    """Return the processor time of a call, by many of them."""
    act()
    began = time.process_time()
    for _ in range(TIMES):
        act()
    return (time.process_time() - began) / TIMES


def main() -> None:
    """Print a line for each size of terminal, and one for the calls of a step."""
    clock = Clock()
    tracker = Tracker(clock, 200)
    show_start(tracker, clock)
    show_steps(tracker, clock, last=MOST_POINTS - 1)
    ink = Ink(Console(force_terminal=True, color_system="truecolor", width=80, height=24))
    for width, height in ((80, 24), (120, 40), (200, 60)):
        painter = FullScreen(ink)

        def picture(painter: FullScreen = painter, width: int = width, height: int = height) -> None:
            painter.forget()
            painter.paint(dashboard(tracker.state, Screen(), clock(), width, height), width, height)

        each = seconds(picture)
        print(f"{width}x{height}: {each * 1000:.1f} ms a picture, {each / REDRAW_SECONDS:.2%} of a processor")
    number = MOST_POINTS

    def one_step() -> None:
        nonlocal number
        number += 1
        for done in range(8):
            tracker.microbatch(number, done, 8)
        tracker.step(step(number))

    print(f"calls of a step of 8 micro-batches: {seconds(one_step) * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
