"""Whether a chat template writes what it is given: a part that it leaves out is not trained on.

Two checks see different faults. A conversation of the same shape, in which every part is a marker, shows what the
template never writes; it is rendered once for each shape. A search for the parts shows what it cuts out of this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import markupsafe

from dpotrain.core.pair import Message, UnusableRow
from dpotrain.data.tokens.chat_template import ChatTemplate, Tools
from dpotrain.data.tokens.markers import Markers, shape_key
from dpotrain.data.tokens.parts import (
    CALLS,
    TEXT,
    THOUGHT,
    TOOLS,
    Form,
    Part,
    calls,
    function_of,
    split_thought,
    text_of,
    thoughts,
)

_FORMS = (Form(), Form(arguments_as_text=True), Form(content_in_parts=True), Form(True, True))
#: Shapes of conversations that are remembered; data sets have a few dozen.
_MOST_SHAPES = 10_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What a template makes of conversations of one shape."""

    form: Form
    """How it takes their messages."""
    unwritten: frozenset[Part]
    """The parts that it does not write."""


class Written:
    """Finds parts of conversations that one chat template does not write."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._shapes: dict[Any, Shape] = {}

    def shape(self, messages: Sequence[Message], tools: Tools) -> Shape:
        """Return what the template makes of conversations of this shape, as far as it renders them at all."""
        key = shape_key(messages, tools)
        found = self._shapes.get(key)
        if found is None:
            found = self._try_out(messages, tools)
            if found is None:  # refused, perhaps for what is in this row alone
                return Shape(Form(), frozenset())
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[key] = found
        return found

    def unwritten(
        self,
        shape: Shape,
        full: str,
        start: int,
        sides: tuple[Sequence[Message], Sequence[Message]],
        tools: Tools,
    ) -> set[Part]:
        """Return the parts of a conversation of this shape, prompt and answer, that its rendering does not hold.

        The answer begins at ``start`` of the rendering ``full``.
        """
        missing = set(shape.unwritten)
        prompt = len(sides[0])
        whole, answer = _Search(full, self._template.removed), _Search(full[start:], self._template.removed)
        for at, message in enumerate((*sides[0], *sides[1])):
            text = text_of(message)
            if at >= prompt and full.find(text, max(0, start - len(text))) >= 0:
                text = ""  # it is there; the generation prompt may have written how it begins
            missing.update((at, kind) for kind in _missing(message, text, whole if at < prompt else answer))
        names = [function_of(tool).get("name") for tool in tools]
        if not all(name in full for name in names if isinstance(name, str)):
            missing.add((-1, TOOLS))
        return missing

    def _try_out(self, messages: Sequence[Message], tools: Tools) -> Shape | None:
        """Render markers in place of the parts, first as they are; None where every form is refused.

        The first form is taken that leaves out fewest of texts and tool calls, and does not come out as Python writes
        objects and lists, which is what becomes of them where a template puts them into a text as they stand.
        """
        markers = Markers(messages, tools)
        best, least = None, (True, len(messages))
        for form in _FORMS:
            if form.arguments_as_text and not markers.arguments:
                continue
            try:
                rendered = self._template(list(map(form.of, markers.messages)), markers.tools, opens=False)
            except UnusableRow:
                continue
            shape = Shape(form, markers.missing_in(rendered))
            as_python = (
                any(one and repr(one) in rendered for one in markers.arguments)
                or "{'type': 'text'" in rendered
            )
            rank = (as_python, sum(kind in (TEXT, CALLS) for _, kind in shape.unwritten))
            if best is None or rank < least:
                best, least = shape, rank
            if least == (False, 0):
                break
        return best


class _Search:
    """Looks for parts in a rendering, as they stand and then as templates rewrite them."""

    def __init__(self, text: str, removed: Sequence[str]) -> None:
        self._text = text
        self._removed = removed

    def has(self, value: str) -> bool:
        """Whether a text is there, but for white space, escapes and what the template takes out of every text."""
        value = value.strip()
        return value in self._text or any(_bare(form) in self._bare for form in self._forms(value))

    def has_call(self, function: Mapping[str, Any]) -> bool:
        """Whether a tool call is there: its name, and its arguments in whatever notation."""
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name not in self._text:
            return False
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return self.has(arguments)
        if _bare(json.dumps(arguments, ensure_ascii=False, default=str)) in self._bare:
            return True
        return all(any(map(self.has, forms)) for forms in _leaves(arguments))

    @cached_property
    def _bare(self) -> str:
        return _bare(self._text)

    def _forms(self, value: str) -> Iterator[str]:
        yield value
        for text in self._removed:
            value = value.replace(text, "")
        yield value
        yield json.dumps(value, ensure_ascii=False)[1:-1]
        yield json.dumps(value)[1:-1]
        yield str(markupsafe.escape(value))


def _missing(message: Message, text: str, search: _Search) -> Iterator[str]:
    """Yield the kinds of parts that are not there: of ``text``, which the message says, and what stands beside it."""
    if text and not search.has(text):
        thought, end, said = split_thought(text)
        if end and not search.has(thought):
            yield THOUGHT
        if not search.has(said):
            yield TEXT
    if not all(map(search.has, thoughts(message))):
        yield THOUGHT
    if not all(map(search.has_call, calls(message))):
        yield CALLS


def _leaves(value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the names and values inside arguments, each in the ways that it may be written."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield (str(name),)
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield (value,)
    else:
        yield (json.dumps(value, default=str), str(value))


def _bare(text: str) -> str:
    """Return the text without white space."""
    return "".join(text.split())
