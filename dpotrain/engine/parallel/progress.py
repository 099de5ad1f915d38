"""The progress of all ranks, as one of them sees it."""

from __future__ import annotations

from dpotrain.core.reporter import Advance


def over_ranks(advance: Advance, own: int, total: int) -> Advance:
    """Return what a rank calls with the number of its ``own`` items that it has done; the bar has the ``total`` of all.

    The other ranks are taken to be as far. The shares of ranks differ, so a rank's items count for more or fewer.
    """
    done = shown = 0

    def count(items: int) -> None:
        nonlocal done, shown
        done += items
        now = total * done // own if own else 0
        advance(now - shown)
        shown = now

    return count
