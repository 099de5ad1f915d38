"""The parts of a message that a chat template should write: text, reasoning, tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dpotrain.core.messages.values import REASONING
from dpotrain.core.pair import Message

#: A part: the number of its message, -1 for the tools, and its kind.
Part: TypeAlias = tuple[int, str]

TEXT, THOUGHT, CALLS, TOOLS = "text", "reasoning", "tool calls", "tools"
_END = "</think>"


def text_of(message: Message) -> str:
    """Return what a message says; empty where that is only white space."""
    content = message.get("content")
    return content if isinstance(content, str) and content.strip() else ""


def split_thought(text: str) -> tuple[str, str, str]:
    """Return the reasoning that a text begins with, the tag that ends it, and the rest.

    The first two are empty where there is none. An opening tag is left out: it may stand in the generation prompt.
    """
    thought, end, said = text.rpartition(_END)
    return thought.replace("<think>", ""), end, said


def thoughts(message: Message) -> Iterator[str]:
    """Yield the reasoning beside a message's text, under whatever name."""
    for name in REASONING:
        value = message.get(name)
        if isinstance(value, str) and value.strip():
            yield value


def calls(message: Message) -> list[Mapping[str, Any]]:
    """Return name and arguments of a message's tool calls."""
    return [function_of(call) for call in message.get("tool_calls") or ()]


def function_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return name and arguments of a tool call, or of a tool's schema: its ``function``, or itself."""
    function = schema.get("function", schema)
    return function if isinstance(function, Mapping) else {}


def with_function(schema: Mapping[str, Any], **changed: Any) -> Mapping[str, Any]:
    """Return a tool call or schema with something else in its function."""
    function = {**function_of(schema), **changed}
    return {**schema, "function": function} if "function" in schema else function


@dataclass(frozen=True, slots=True)
class Form:
    """How a template takes messages, where it does not take them as they are."""

    arguments_as_text: bool = False
    """The arguments of tool calls as JSON text, not as objects."""
    content_in_parts: bool = False
    """Content as a list of one part, not as text: templates of models that also see."""

    def of(self, message: Message) -> Message:
        """Return a message in this form."""
        if self.arguments_as_text and message.get("tool_calls"):
            message = {**message, "tool_calls": list(map(_with_text, message["tool_calls"]))}
        if self.content_in_parts and isinstance(message.get("content"), str):
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        return message

    def __or__(self, other: Form) -> Form:
        return Form(
            self.arguments_as_text or other.arguments_as_text, self.content_in_parts or other.content_in_parts
        )


def _with_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = function_of(call).get("arguments")
    if not isinstance(arguments, Mapping):
        return call
    return with_function(call, arguments=json.dumps(arguments, ensure_ascii=False))
