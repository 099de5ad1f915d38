"""Where the time of a profiled step goes, by what operators do: matrix products, attention, elementwise, copies.

Elementwise includes reductions. What no operator took is the rest: Python, allocating, launching.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.profiler import record_function

from dpotrain.engine.attention import packed

#: Name of the ranges that a profiled step consists of: this and the part, or this and ATTENTION.
RANGE = "dpotrain::"
ATTENTION = "attention"
GROUPS = ("products", ATTENTION, "elementwise", "copies", "the rest")
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "matmul", "addbmm"}
_COPIES = {
    "copy", "cat", "stack", "index_select", "index", "gather", "clone", "fill", "zero", "zeros", "contiguous",
    "index_put", "index_add", "index_copy", "scatter", "embedding", "embedding_dense_backward", "constant_pad_nd",
    "repeat_interleave", "masked_select", "slice_backward", "select_backward", "to",
}  # fmt: skip
_BACKWARD = "autograd::engine::evaluate_function: "


def operator_group(name: str) -> str | None:
    """Return the group of an operator outside attention; None for what is not an operator."""
    space, _, short = name.partition("::")
    if not short or space in {"autograd", RANGE.removesuffix("::")}:
        return None
    plain = short.strip("_").partition(".")[0]
    if plain in _PRODUCTS or "linear" in plain:
        return GROUPS[0]
    return GROUPS[3] if plain.removesuffix("_copy") in _COPIES else GROUPS[2]


@contextmanager
def marking_attention() -> Iterator[None]:
    """Inside this context, calls of segment attention are ranges of the profile, whenever it was installed."""
    attend = packed._attend

    def attention(*args: Any, **kwargs: Any) -> Any:
        with record_function(RANGE + ATTENTION):
            return attend(*args, **kwargs)

    with mock.patch.object(packed, "_attend", attention):
        yield


def seconds_by_group(
    events: Sequence[Any], parts: Sequence[str], seconds: Callable[[Any], float]
) -> dict[str, dict[str, float]]:
    """Return seconds by part of the step and group, from a profiler's events.

    ``seconds`` gives an event's own time, without its children's. Parts are ranges around calls of the trainer; what
    lies outside of them is "rest".
    """
    attention = _attention_nodes(events)
    labels: dict[int, tuple[str, bool]] = {}

    def label(event: Any) -> tuple[str, bool]:
        """Return the part that an event belongs to, and whether it belongs to attention."""
        if id(event) not in labels:
            part, inside = label(event.cpu_parent) if event.cpu_parent is not None else ("rest", False)
            name = event.name.removeprefix(RANGE)
            if event.name.startswith(RANGE):
                # A part inside another counts as the outer one.
                part, inside = (
                    (name if name in parts and part == "rest" else part),
                    inside or name == ATTENTION,
                )
            elif event.name.startswith(_BACKWARD):
                # Without a parent on its thread, as on CUDA, it is the backward pass all the same.
                part = "backward" if part == "rest" else part
                inside = inside or (event.sequence_nr, _node(event)) in attention
            labels[id(event)] = part, inside
        return labels[id(event)]

    found = {part: dict.fromkeys(GROUPS, 0.0) for part in (*parts, "rest")}
    for event in events:
        part, inside = label(event)
        group = ATTENTION if inside else operator_group(event.name)
        found[part][group or GROUPS[-1]] += seconds(event)
    return found


def _attention_nodes(events: Sequence[Any]) -> set[tuple[int, str]]:
    """Return number and name of the backward nodes that attention made.

    An operator without gradients carries the number of the next node, so that the name has to fit, too.
    """
    found = set()
    for event in events:
        parent = event.cpu_parent
        while parent is not None and parent.name != RANGE + ATTENTION:
            parent = parent.cpu_parent
        if parent is not None and event.sequence_nr >= 0:
            found.add((event.sequence_nr, _plain(event.name)))
    return found


def _node(event: Any) -> str:
    """Return the plain name of the operator whose backward an event is."""
    return _plain(re.sub(r"Backward\d*$", "", event.name.removeprefix(_BACKWARD)))


def _plain(name: str) -> str:
    return name.rpartition("::")[2].replace("_", "").lower()
