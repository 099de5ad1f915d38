"""A conversation of the same shape as another, in which every part is a marker: words that no conversation holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dpotrain.core.messages.values import REASONING
from dpotrain.core.pair import Message
from dpotrain.data.tokens.chat_template import Tools
from dpotrain.data.tokens.parts import (
    CALLS,
    TEXT,
    THOUGHT,
    TOOLS,
    Part,
    calls,
    function_of,
    split_thought,
    thoughts,
    with_function,
)


def shape_key(messages: Sequence[Message], tools: Tools) -> Any:
    """Return what a template may decide by, besides words: equal for conversations of one shape."""
    return tuple(map(_shape_of_tool, tools)), tuple(map(_shape_of, messages))


class Markers:
    """The conversation of markers."""

    def __init__(self, messages: Sequence[Message], tools: Tools) -> None:
        self._expected: dict[Part, list[str]] = {}
        self._count = 0
        self.arguments: list[Mapping[str, str]] = []
        """The arguments of tool calls that are objects."""
        self.messages = [self._message(at, message) for at, message in enumerate(messages)]
        self.tools = [self._tool((-1, TOOLS), tool) for tool in tools]

    def missing_in(self, rendered: str) -> frozenset[Part]:
        """Return the parts of which a marker is not in a text."""
        return frozenset(
            part
            for part, markers in self._expected.items()
            if not all(marker in rendered for marker in markers)
        )

    def _new(self, part: Part) -> str:
        self._count += 1
        marker = f"qzx{self._count}xzq"
        self._expected.setdefault(part, []).append(marker)
        return marker

    def _message(self, at: int, message: Message) -> Message:
        marked = dict(message)
        if isinstance(message.get("content"), str):
            marked["content"] = self._text(at, message["content"])
        markers = {value: self._new((at, THOUGHT)) for value in dict.fromkeys(thoughts(message))}
        marked |= {name: markers[message[name]] for name in REASONING if message.get(name) in markers}
        if message.get("tool_calls"):
            marked["tool_calls"] = [self._call((at, CALLS), call) for call in message["tool_calls"]]
        return marked

    def _text(self, at: int, text: str) -> str:
        if not text.strip():
            return text
        thought, end, said = split_thought(text)
        if not end:
            return self._new((at, TEXT))
        opening = "<think>\n" if text.lstrip().startswith("<think>") else ""
        inner = self._new((at, THOUGHT)) if thought.strip() else ""
        return f"{opening}{inner}\n{end}\n\n{self._new((at, TEXT)) if said.strip() else ''}"

    def _call(self, part: Part, call: Mapping[str, Any]) -> Mapping[str, Any]:
        arguments = function_of(call).get("arguments")
        call = self._named(part, call)
        marked = {self._new(part): self._new(part)} if arguments else {}
        if isinstance(arguments, str):
            return with_function(call, arguments=json.dumps(marked)) if arguments else call
        if arguments is None:
            return call
        self.arguments.append(marked)
        return with_function(call, arguments=marked)

    def _tool(self, part: Part, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a tool with markers as its name, its description and the names of its parameters."""
        tool = self._named(part, tool)
        function = function_of(tool)
        if _is_said(function.get("description")):
            tool = with_function(tool, description=self._new(part))
        names = _parameters(function)
        if names:
            properties = {self._new(part): function["parameters"]["properties"][name] for name in names}
            tool = with_function(tool, parameters={**function["parameters"], "properties": properties})
        return tool

    def _named(self, part: Part, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a tool, or a call of one, with a marker as its name."""
        if not isinstance(function_of(schema).get("name"), str):
            return schema
        return with_function(schema, name=self._new(part))


def _shape_of_tool(tool: Mapping[str, Any]) -> tuple[Any, ...]:
    function = function_of(tool)
    said = _is_said(function.get("description"))
    return tuple(sorted(tool)), tuple(sorted(function)), said, len(_parameters(function))


def _is_said(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _parameters(function: Mapping[str, Any]) -> list[str]:
    """Return the names of a tool's parameters, if they are told as JSON schema does."""
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return list(properties) if isinstance(properties, Mapping) else []


def _shape_of(message: Message) -> tuple[Any, ...]:
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    thought, end, said = split_thought(text)
    return (
        message.get("role"),
        tuple(sorted(key for key, value in message.items() if value)),
        (end, bool(thought.strip()), text.lstrip().startswith("<think>"), bool(said.strip())),
        tuple((type(call.get("arguments")), bool(call.get("arguments"))) for call in calls(message)),
    )
