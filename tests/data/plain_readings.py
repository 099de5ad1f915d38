"""What a row of preference data means, drawn at random, and what was read from it, in one form that compares.

The direction is the opposite of a formatter's: a conversation is drawn, written down as a row by
:mod:`tests.data.plain_formats`, and must be read back. Nothing here imports or repeats the code that reads rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from dpotrain.core.pair import PreferencePair

Message = dict[str, Any]
Row = dict[str, Any]

#: What stands before or after the marker word of a text. None of it makes the text anything but text.
ODD = (
    *("", "", "", " ", "  \t", "\n", "\n\n", "\r\n", "\u00a0", "\u2028", "\ufeff", "é", "e\u0301", "中文", "😀"),
    *('"', "'", "{", "}", "[", "]", "[{", "}]", "\\n", "\\", '"}', "{{ x }}", "{% if %}", "%s", "${y}", "null", "None"),
    *("user\n", "assistant", "system:", "Human: ", "Assistant: ", "User: ", "### Response:", "[INST] ", "<s>", "</s>"),
    *("<|im_end|>", "<|im_start|>user\n", "<|eot_id|>", "<think>", "</think>", "<tool_call>", "[1, 2]"),
    *("Sure, ", "The ", "I ", "- ", "1. ", "```json\n", "http://a.b/?c=d", "\x00", "\u200b", '{"name": "f"}'),
)  # fmt: skip
#: What a text that begins with it may be refused for: it looks like a message that somebody printed.
ENDINGS = ('{"role": "user"}', "[{'from': 'human', 'value': 'x'}]", '{"content": ""}')

#: Ends a question that answers may repeat.
TELLING = " What is it about?"


@dataclass
class Meant:
    """What a row means."""

    turns: list[Message]
    """The prompt without its system text; ends with a turn of the user or of a tool."""
    chosen: list[Message]
    rejected: list[Message]
    system: str | None = None
    tools: list[Row] = field(default_factory=list)

    @property
    def prompt(self) -> list[Message]:
        return ([] if self.system is None else [message("system", self.system)]) + self.turns

    @property
    def is_text(self) -> bool:
        """Whether every message is plain text."""
        return not any("calls" in one or one["role"] == "tool" for one in self.everything)

    @property
    def is_spoken(self) -> bool:
        """Whether a text begins with the name of a speaker."""
        return any(one["content"].startswith(("Human:", "Assistant:")) for one in self.everything)

    @property
    def everything(self) -> list[Message]:
        return [*self.prompt, *self.chosen, *self.rejected]


@dataclass
class Written:
    """A row, and how strictly what is read from it can be compared with what was meant."""

    row: Row
    formatter: str
    clear: bool = True
    """Whether it can be read in one way only, so that refusing it would be wrong."""
    loose: bool = False
    """Whether white space may differ: a prompt that stands twice, parts that are joined, trimmed dialogues."""
    as_text: bool = False
    """Whether prompt and answers are trained on as text, without a chat template."""


def message(role: str, content: str, calls: Sequence[Row] = ()) -> Message:
    return {"role": role, "content": content, **({"calls": list(calls)} if calls else {})}


# What is meant


@st.composite
def conversations(draw: st.DrawFn, *, system: bool = True, history: bool = True, calls: bool = True) -> Meant:
    """Draw a conversation in which every text holds a marker word of its own."""
    count = 0

    def text() -> str:
        nonlocal count
        count += 1
        begin, end = draw(st.sampled_from(ODD)), draw(st.sampled_from((*ODD, *ENDINGS)))
        return f"{begin}mark{count}end{'' if end in ENDINGS and begin[:1] in ('{', '[') else end}"

    def call() -> Message:
        nonlocal count
        count += 1
        arguments = draw(st.sampled_from([{}, {"x": 1}, {"x": None, "y": [1.5, "é"]}, {"x": {"z": 'a"b'}}]))
        return message(
            "assistant", "", [{"name": f"f{count}", "arguments": {**arguments, "to": f"mark{count}end"}}]
        )

    def rounds(most: int) -> list[Message]:
        turns = []
        for _ in range(draw(st.integers(0, most))):
            turns.append(message("user", text()))
            if calls and draw(st.booleans()):
                turns += [call(), message("tool", text())]
            turns.append(message("assistant", text()))
        return turns

    def answer() -> list[Message]:
        kind = draw(st.sampled_from(["text", "text", "call", "both"])) if calls else "text"
        if kind == "call":
            return [call()]
        return ([call(), message("tool", text())] if kind == "both" else []) + [message("assistant", text())]

    told = text() if system and draw(st.booleans()) else None
    turns = [*rounds(2 if history else 0), message("user", text())]
    if calls and draw(st.integers(0, 3)) == 0:
        turns += [call(), message("tool", text())]
    meant = Meant(turns, answer(), answer(), told)
    if calls and (not meant.is_text or draw(st.booleans())):
        properties = {
            "to": {"type": "string", "default": None},
            "x": {"type": ["integer", "null"], "enum": [1, None]},
        }
        schema = {
            "name": "f",
            "description": "finds",
            "parameters": {"type": "object", "properties": properties},
        }
        meant.tools = [{"type": "function", "function": schema}]
    return meant


# What was read


def as_meant(meant: Meant, written: Written) -> Any:
    """Return what must be read, for comparison with :func:`as_read`."""
    sides = meant.prompt, meant.chosen, meant.rejected
    if written.as_text:
        return [_spaces(side[0]["content"], written.loose) for side in sides], []
    return [[_plain(one, written.loose) for one in side] for side in sides], meant.tools


def as_read(pair: PreferencePair, written: Written) -> Any:
    """Return the pair that was read, reduced to roles, texts and calls."""
    sides = pair.prompt, pair.chosen, pair.rejected
    if isinstance(pair.prompt, str):
        return [_spaces(side, written.loose) for side in sides], list(pair.tools)
    turns = []
    for side in sides:
        assert not isinstance(side, str)
        functions = [[call["function"] for call in one.get("tool_calls") or []] for one in side]
        turns.append(
            [
                _plain(message(one["role"], one.get("content") or "", calls), written.loose)
                for one, calls in zip(side, functions, strict=True)
            ]
        )
    return turns, list(pair.tools)


def _plain(one: Message, loose: bool) -> Any:
    calls = [(call["name"], call["arguments"]) for call in one.get("calls", [])]
    return one["role"], _spaces(one["content"], loose), calls


def _spaces(text: str, loose: bool) -> str:
    return "".join(text.split()) if loose else text
