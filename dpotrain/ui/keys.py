"""What keys do in a view."""

from __future__ import annotations

from typing import Literal

from dpotrain.ui.dashboard import Page, Screen
from dpotrain.ui.state import ViewState

Action = Literal["suspend", "leave", ""]

_PAGES: dict[str, Page] = {"t": "samples", "n": "notes", "r": "run", "?": "help", "h": "help"}
_STOPS = ("q", "x")
_REALLY = "Stop the run? Its state is saved first. y: stop, any other key: go on"
_SUSPEND, _ESCAPE = "\x1a", "\x1b"


def pressed(data: bytes, screen: Screen, state: ViewState) -> list[Action]:
    """Do what keys ask for, and return what the terminal's owner has to do.

    ``data`` is what the terminal sent; arrows and other keys that it sends as sequences are left out.
    """
    text = data.decode(errors="replace")
    if text.startswith(_ESCAPE) and len(text) > 1:
        return []
    return [action for key in text if (action := _press(key, screen, state))]


def _press(key: str, screen: Screen, state: ViewState) -> Action:
    if key == _SUSPEND:
        return "suspend"
    if screen.asks:
        screen.asks = ""
        if state.controls is not None and key in ("y", "Y", *_STOPS):
            state.controls.stop(f"{key} was pressed")
        return ""
    if key == "q" and screen.watches:
        return "leave"
    if key in _PAGES:
        screen.page = "charts" if screen.page == _PAGES[key] else _PAGES[key]
    elif key in ("p", "\t"):
        screen.turn += screen.page == "charts"
        screen.page = "charts"
    elif key == _ESCAPE:
        screen.page = "charts"
    elif state.controls is not None:
        if key == "s":
            state.controls.save()
            state.say("note", "a checkpoint was asked for: it is saved after this step")
        elif key == "e":
            state.controls.evaluate()
            state.say("note", "an evaluation was asked for: it comes after this step")
        elif key in _STOPS and not state.controls.stopping:
            screen.asks = _REALLY
    return ""
