"""The full screen as a pure function of a state, a time and a size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.text import Text

from dpotrain.ui.layout import Block, beside, wrap
from dpotrain.ui.live_charts import charts, draw
from dpotrain.ui.panels import evaluation, figures, head, information, notes, progress, samples
from dpotrain.ui.state import ViewState

Page = Literal["charts", "samples", "notes", "run", "help"]

#: Columns and lines of a chart: one that is smaller shows too little.
_CHART_WIDTH, _CHART_HEIGHT = 36, 6
_MOST_CHART_HEIGHT = 16
#: Of the lines below the progress, those that charts may take, the rest is for samples and notes.
_CHART_SHARE = 0.75
#: From this width on, samples stand beside notes.
_BESIDE = 100

HELP = (
    ("s", "save a checkpoint after this step"),
    ("e", "evaluate after this step"),
    ("x", "save and stop the run; asks first"),
    ("q", "the same; of a run that is watched: leave it alone"),
    ("p, Tab", "the next charts, where not all fit"),
    ("t", "what the model answers, before training and now"),
    ("n", "all notes and warnings"),
    ("r", "the run: model, data, memory"),
    ("Ctrl-Z", "suspend; fg goes on"),
    ("Esc", "back to the charts"),
)
#: What else the help explains.
LEGEND = (
    "─ training, ◆ evaluation; training numbers are means of the last steps.",
    "eval: in brackets [ ] the 95 % interval of the accuracy, in ( ) the change since the first evaluation.",
)


@dataclass(slots=True)
class Screen:
    """What a person chose to see."""

    page: Page = "charts"
    turn: int = 0
    """How often the next charts were asked for."""
    asks: str = ""
    """A question that waits for an answer, in place of the keys."""
    keys: bool = True
    """Whether keys are read."""
    watches: bool = False
    """Whether the run is another process's, which one can leave alone."""


def dashboard(state: ViewState, screen: Screen, now: float, width: int, height: int) -> Block:
    """Return exactly ``height`` lines of at most ``width`` columns."""
    top = [head(state, now, width), *progress(state, now, width)]
    foot = _foot(state, screen, width)
    room = height - len(top) - len(foot)
    body = _body(state, screen, width, room) if room > 0 else []
    lines = [*top, *body[: max(room, 0)]]
    lines += [Text()] * (height - len(foot) - len(lines))
    lines = [*lines[: max(height - len(foot), 0)], *foot][-height:] if height else []
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _body(state: ViewState, screen: Screen, width: int, room: int) -> Block:
    blank = Text()
    if screen.page == "help":
        return [blank, Text("keys", style="bold"), *_help(width)]
    if screen.page == "samples":
        none = [Text("no samples yet; the table [samples] of a recipe asks for them", style="dim")]
        return [blank, *(samples(state, width, room - 1, whole=True) or none)]
    if screen.page == "notes":
        none = [Text("nothing was noted so far", style="dim")]
        return [blank, *(notes(state, width, room - 1, whole=True) or none)]
    if screen.page == "run":
        return [blank, *information(state, width)]
    kinds = charts(state)
    if state.pace.last is None and not state.figures:
        about = information(state, width) + evaluation(state, width)
        return [blank, *about, *_texts(state, width, room - len(about) - 1, whole=True)]
    # What of an evaluation has no room on its line stands in the charts' legends.
    body = figures(state, width) + evaluation(state, width)[:1]
    across, down, high = _grid(len(kinds), width, room - len(body))
    if down:
        each = across * down
        turn = screen.turn % -(-len(kinds) // each)
        chosen = kinds[turn * each : (turn + 1) * each]
        wide = (width - 2 * (across - 1)) // across
        for row in range(0, len(chosen), across):
            drawn = [draw(kind, state, wide, high) for kind in chosen[row : row + across]]
            body += beside(drawn, [wide] * len(drawn))
    return body + _texts(state, width, room - len(body))


def _grid(number: int, width: int, room: int) -> tuple[int, int, int]:
    """Return how many charts stand side by side, in how many rows, and their height; no rows where none fits."""
    across = max(1, min((width + 2) // (_CHART_WIDTH + 2), number))
    wanted = -(-number // across) if number else 0
    most = max(int(room * _CHART_SHARE), _CHART_HEIGHT) if room >= _CHART_HEIGHT else 0
    down = min(wanted, most // _CHART_HEIGHT)
    return across, down, min(most // down, _MOST_CHART_HEIGHT) if down else 0


def _texts(state: ViewState, width: int, room: int, *, whole: bool = False) -> Block:
    """Return samples and notes for what room is left, side by side where the terminal is wide; ``whole`` notes wrap."""
    if room < 2:
        return notes(state, width, room, title=False) if room == 1 else []
    blank, room = Text(), room - 1
    if width >= _BESIDE and state.samples is not None:
        half = (width - 2) // 2
        return [
            blank,
            *beside(
                [samples(state, half, room), notes(state, width - half - 2, room)], [half, width - half - 2]
            ),
        ]
    # The newest note stays in view; from eight lines on, three of them and a line between.
    said = samples(state, width, room - (4 if room >= 8 else 1)) if room >= 5 else []
    gap = [blank] if said and room >= 8 else []
    return [
        blank,
        *said,
        *gap,
        *notes(state, width, room - len(said) - len(gap), whole=whole, title=not said),
    ]


def _help(width: int) -> Block:
    keys = [Text.assemble((f"  {keys:<8}", "bold"), text) for keys, text in HELP]
    return [*keys, Text(), *(Text(line, style="dim") for text in LEGEND for line in wrap(text, width))]


def _foot(state: ViewState, screen: Screen, width: int) -> Block:
    """Return the last line: a question, or the keys."""
    if screen.asks:
        return [Text(screen.asks, style="bold reverse")]
    controls = state.controls
    if controls is not None and controls.stopping:
        return [Text(f"stopping ({controls.stop_reason}): the state is saved first", style="bold yellow")]
    if not screen.keys:
        return [Text("keys are off: standard input is not this terminal", style="dim")]
    stops = ("x", "stop") if screen.watches else ("q", "stop")
    asks = [("q", "leave")] if screen.watches else []
    asks += [] if controls is None else [("s", "save"), ("e", "evaluate"), stops]
    keys = [*asks, ("p", "charts"), ("t", "samples"), ("n", "notes"), ("r", "run"), ("?", "help")]
    line = Text(no_wrap=True)
    for key, text in keys:
        entry = f"{key} {text}"
        if cell_len(line.plain) + len(entry) + 2 <= width - 8 or key == "?":
            line.append(key, style="bold reverse").append(f" {text}  ", style="dim")
    return [line]
