"""Whether a chat template writes what it is given: a part that it leaves out is not trained on.

Two checks see different faults. A conversation of the same shape, in which every part is a marker, shows what the
template never writes; it is rendered once for each shape. A search for the parts shows what it cuts out of this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import markupsafe

from dpotrain.core.pair import Message, UnusableRow
from dpotrain.data.tokens.chat_template import REASONING, ChatTemplate, Tools

#: A part: the number of its message, -1 for the tools, and what it is.
Part: TypeAlias = tuple[int, str]

TEXT, THOUGHT, CALLS, TOOLS = "text", "reasoning", "tool calls", "tools"
END_OF_THOUGHT = "</think>"
#: Shapes of conversations that are remembered; data sets have a few dozen.
_MOST_SHAPES = 10_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What a template makes of conversations of one shape."""

    arguments_as_text: bool
    """Whether it takes the arguments of tool calls as JSON text only, and not as objects."""
    unwritten: frozenset[Part]
    """The parts that it does not write."""


class Written:
    """Finds parts of conversations that one chat template does not write."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._shapes: dict[Any, Shape] = {}

    def shape(self, messages: Sequence[Message], tools: Tools) -> Shape:
        """Return what the template makes of conversations of this shape, as far as it renders them at all."""
        key = (len(tools), tuple(map(_shape_of, messages)))
        found = self._shapes.get(key)
        if found is None:
            found = self._try_out(messages, tools)
            if found is None:  # refused, perhaps for what is in this row alone
                return Shape(arguments_as_text=False, unwritten=frozenset())
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[key] = found
        return found

    def unwritten(
        self, full: str, start: int, messages: Sequence[Message], prompt: int, tools: Tools
    ) -> set[Part]:
        """Return the parts of a conversation that its rendering does not hold.

        Its first ``prompt`` messages are the prompt; the answer begins at ``start`` of the rendering ``full``.
        """
        missing = set(self.shape(messages, tools).unwritten)
        whole, answer = _Search(full, self._template.removed), _Search(full[start:], self._template.removed)
        for at, message in enumerate(messages):
            if at < prompt:
                missing.update((at, kind) for kind in _missing(message, whole))
                continue
            content = message.get("content")
            # The generation prompt may have written how the answer begins.
            if isinstance(content, str) and full.find(content, max(0, start - len(content))) >= 0:
                message = {**message, "content": ""}
            missing.update((at, kind) for kind in _missing(message, answer))
        if tools and not all(
            name in full
            for name in (function_of(tool).get("name") for tool in tools)
            if isinstance(name, str)
        ):
            missing.add((-1, TOOLS))
        return missing

    def _try_out(self, messages: Sequence[Message], tools: Tools) -> Shape | None:
        """Render markers in place of the parts, tool arguments as objects first; None where that is refused."""
        markers = _Markers(messages, tools)
        best = None
        for as_text in (False, True) if markers.arguments else (False,):
            marked = list(map(arguments_as_text, markers.messages)) if as_text else markers.messages
            try:
                rendered = self._template(marked, markers.tools, opens=False)
            except UnusableRow:
                continue
            shape = Shape(as_text, markers.missing_in(rendered))
            # An object that a template puts into a text as it stands comes out as Python writes it.
            if not any(repr(one) in rendered for one in markers.arguments) and not any(
                kind == CALLS for _, kind in shape.unwritten
            ):
                return shape
            best = best or shape
        return best


class _Markers:
    """A conversation of the same shape whose parts are markers, each once."""

    def __init__(self, messages: Sequence[Message], tools: Tools) -> None:
        self._expected: dict[Part, list[str]] = {}
        self._count = 0
        self.arguments: list[Mapping[str, str]] = []
        """The arguments of tool calls that are objects."""
        self.messages: list[Message] = [self._message(at, message) for at, message in enumerate(messages)]
        self.tools: Tools = [self._named((-1, TOOLS), tool) for tool in tools]

    def missing_in(self, rendered: str) -> frozenset[Part]:
        """Return the parts of which a marker is not in the text."""
        return frozenset(
            part
            for part, markers in self._expected.items()
            if not all(marker in rendered for marker in markers)
        )

    def _new(self, part: Part) -> str:
        """Return a word that no conversation holds."""
        self._count += 1
        marker = f"qzx{self._count}xzq"
        self._expected.setdefault(part, []).append(marker)
        return marker

    def _message(self, at: int, message: Message) -> Message:
        marked = dict(message)
        content = message.get("content")
        if isinstance(content, str):
            marked["content"] = self._text(at, content)
        elif isinstance(content, Sequence):
            marked["content"] = [
                {**part, "text": self._text(at, part["text"])} if _is_text(part) else part for part in content
            ]
        thoughts = {value: self._new((at, THOUGHT)) for value in dict.fromkeys(_thoughts(message))}
        marked |= {name: thoughts[message[name]] for name in REASONING if message.get(name) in thoughts}
        if message.get("tool_calls"):
            marked["tool_calls"] = [self._called((at, CALLS), call) for call in message["tool_calls"]]
        if isinstance(message.get("function_call"), Mapping):
            marked["function_call"] = self._called((at, CALLS), message["function_call"])
        return marked

    def _text(self, at: int, text: str) -> str:
        if not text.strip():
            return text
        thought, end, said = text.rpartition(END_OF_THOUGHT)
        if not end:
            return self._new((at, TEXT))
        opening = "<think>\n" if thought.lstrip().startswith("<think>") else ""
        inner = self._new((at, THOUGHT)) if thought.replace("<think>", "").strip() else ""
        return f"{opening}{inner}\n{end}\n\n{self._new((at, TEXT)) if said.strip() else ''}"

    def _called(self, part: Part, call: Any) -> Any:
        """Return a tool call with markers for its name and an argument."""
        if not isinstance(call, Mapping):
            return call
        call = self._named(part, call)
        function = dict(function_of(call))
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping) and arguments:
            function["arguments"] = {self._new(part): self._new(part)}
            self.arguments.append(function["arguments"])
        elif isinstance(arguments, str) and arguments.strip():
            function["arguments"] = json.dumps({self._new(part): self._new(part)})
        return {**call, "function": function} if "function" in call else function

    def _named(self, part: Part, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a tool, or a call of one, with a marker for its name."""
        function = function_of(schema)
        if not isinstance(function.get("name"), str):
            return schema
        function = {**function, "name": self._new(part)}
        return {**schema, "function": function} if "function" in schema else function


class _Search:
    """Looks for parts in a rendering, as they stand and then as templates rewrite them."""

    def __init__(self, text: str, removed: Sequence[tuple[str, str]]) -> None:
        self._text = text
        self._removed = [one or other for one, other in removed]
        self._bare_text: str | None = None

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
                return self.has(str(arguments))
        plain = _bare(json.dumps(arguments, ensure_ascii=False, default=str))
        return plain in self._bare or all(
            any(form in self._text or self.has(form) for form in forms) for forms in _leaves(arguments)
        )

    @property
    def _bare(self) -> str:
        if self._bare_text is None:
            self._bare_text = _bare(self._text)
        return self._bare_text

    def _forms(self, value: str) -> Iterator[str]:
        yield value
        if any(text in value for text in self._removed):
            for text in self._removed:
                value = value.replace(text, "")
            yield value
        yield json.dumps(value, ensure_ascii=False)[1:-1]
        yield json.dumps(value)[1:-1]
        yield str(markupsafe.escape(value))


def nothing_to_write(message: Message) -> list[str]:
    """Return what a message holds that has neither text, reasoning nor tool calls: the keys of it; else nothing."""
    if any(_texts(message)) or any(_thoughts(message)) or any(True for _ in _calls(message)):
        return []
    return sorted(key for key, value in message.items() if value and key not in ("role", "content", "name"))


def arguments_as_text(message: Message) -> Message:
    """Return a message with the arguments of its tool calls as JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = function_of(call)
        if isinstance(function.get("arguments"), Mapping):
            function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def function_of(call: Any) -> Mapping[str, Any]:
    """Return name and arguments of a tool call, or of a tool's schema: its ``function``, or itself."""
    if not isinstance(call, Mapping):
        return {}
    function = call.get("function", call)
    return function if isinstance(function, Mapping) else {}


def _missing(message: Message, search: _Search) -> Iterator[str]:
    """Yield the kinds of a message's parts that are not there."""
    for text in _texts(message):
        if search.has(text):
            continue
        thought, end, said = text.rpartition(END_OF_THOUGHT)
        if end and not search.has(thought.replace("<think>", "")):
            yield THOUGHT
        if not search.has(said):
            yield TEXT
    if not all(map(search.has, _thoughts(message))):
        yield THOUGHT
    if not all(map(search.has_call, _calls(message))):
        yield CALLS


def _shape_of(message: Message) -> tuple[Any, ...]:
    """Return what a template may decide by, besides the words of a message."""
    content = message.get("content")
    parts = (
        [part["text"] if _is_text(part) else part for part in content]
        if isinstance(content, list)
        else [content]
    )
    return (
        message.get("role"),
        tuple(sorted(key for key, value in message.items() if value)),
        tuple(map(_shape_of_text, parts)),
        tuple(
            (type(call.get("arguments")).__name__, bool(call.get("arguments"))) for call in _calls(message)
        ),
    )


def _shape_of_text(text: Any) -> tuple[Any, ...]:
    if not isinstance(text, str):
        return (type(text).__name__,)
    thought, end, said = text.rpartition(END_OF_THOUGHT)
    return (end, bool(thought.strip()), thought.lstrip().startswith("<think>"), bool(said.strip()))


def _texts(message: Message) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"text": content}]
    for part in content or ():
        if _is_text(part) and part["text"].strip():
            yield part["text"]


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def _thoughts(message: Message) -> Iterator[str]:
    for name in REASONING:
        value = message.get(name)
        if isinstance(value, str) and value.strip():
            yield value


def _calls(message: Message) -> Iterator[Mapping[str, Any]]:
    calls = message.get("tool_calls") or ()
    for call in [*calls, message.get("function_call")]:
        function = function_of(call)
        if function:
            yield function


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
