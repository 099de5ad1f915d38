"""Rows of every data format, written down from a conversation that is known: what a formatter must read back.

The direction is the opposite of a formatter's. :func:`conversations` draws what is meant, a writer of :data:`WRITERS`
writes it as one row of a published format with random variations that change no meaning, and :func:`as_read` brings the
pair that was read into the same form. Nothing here imports or repeats the code that reads rows; the formats are as
their documentation and the published data sets have them.
"""

import json
from collections.abc import Callable, Sequence
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


# How messages are written


def write(draw: st.DrawFn, messages: Sequence[Message], written: Written, *, other: bool = False) -> Any:
    """Write messages as a list, in one of the ways data sets do; ``other`` varies what a repeat may differ in."""
    plain = not any("calls" in one for one in messages)
    ways = ["list", "list", "null keys", "parts", "json"]
    ways += ["from", "struct"] if plain else ["from"]
    way = draw(st.sampled_from(ways))
    turns = [_turn(draw, one, way, written, other) for one in messages]
    if way == "struct":
        return {key: [turn.get(key) for turn in turns] for key in ("role", "content")}
    return json.dumps(turns, ensure_ascii=draw(st.booleans())) if way == "json" else turns


def _turn(draw: st.DrawFn, one: Message, way: str, written: Written, other: bool = False) -> Message:
    role, content, calls = one["role"], one["content"], one.get("calls", [])
    if other and role in ("user", "system"):
        content = _spaced(draw, content, written)
    extra: Row = {"id": draw(st.sampled_from(["a7", 7]))} if way != "struct" and draw(st.booleans()) else {}
    if way == "from":
        names = {
            "user": ["human", "user"],
            "assistant": ["gpt"],
            "system": ["system"],
            "tool": ["observation", "tool"],
        }
        if len(calls) == 1:
            value = json.dumps({"name": calls[0]["name"], "arguments": calls[0]["arguments"]})
            return {"from": "function_call", "value": value}
        return {"from": draw(st.sampled_from(names[role])), "value": content, **extra}
    if way == "null keys":
        extra |= {"tool_calls": None, "name": None, "tool_call_id": None, "reasoning_content": None}
    if calls:
        as_text = draw(st.booleans())
        functions = [
            {**call, "arguments": json.dumps(call["arguments"]) if as_text else call["arguments"]}
            for call in calls
        ]
        nothing: Row = draw(st.sampled_from([{"content": None}, {"content": ""}, {}]))
        if draw(st.integers(0, 4)) == 0:
            return {"role": role, **nothing, **extra, "function_call": functions[0]}
        named = [{"id": "c1", "type": "function", "function": function} for function in functions]
        return {"role": role, **nothing, **extra, "tool_calls": named}
    if role == "tool" and way == "list":
        extra |= draw(st.sampled_from([{}, {"tool_call_id": "c1"}, {"tool_call_id": "c1", "name": "f"}]))
    if way == "parts":
        middle = draw(st.integers(0, len(content)))
        if not content[:middle].strip() or not content[middle:].strip() or draw(st.booleans()):
            return {"role": role, "content": [{"type": "text", "text": content}], **extra}
        written.loose = True
        parts = [{"type": "text", "text": piece} for piece in (content[:middle], content[middle:])]
        return {"role": role, "content": parts, **extra}
    return {"role": role, "content": content, **extra}


def _spaced(draw: st.DrawFn, text: str, written: Written) -> str:
    """Return the text with white space that a repeat may differ in."""
    written.loose = True
    return draw(st.sampled_from([text, f"{text} ", f"\n{text}", text.strip(), text.replace("\n", "\r\n")]))


def tools_column(draw: st.DrawFn, meant: Meant) -> Row:
    if not meant.tools:
        return draw(st.sampled_from([{}, {"tools": None}, {"tools": []}, {"tools": ""}]))
    return {
        "tools": draw(
            st.sampled_from(
                [meant.tools, json.dumps(meant.tools), [json.dumps(tool) for tool in meant.tools]]
            )
        )
    }


def system_column(draw: st.DrawFn, meant: Meant) -> Row:
    if meant.system is None:
        return draw(st.sampled_from([{}, {"system": None}, {"system": ""}]))
    one = {"role": "system", "content": meant.system}
    return {"system": draw(st.sampled_from([meant.system, [one], one]))}


def history_column(draw: st.DrawFn, meant: Meant, written: Written) -> tuple[Row, list[Message]]:
    """Return the column ``history``, perhaps none, and the turns that are left for the prompt."""
    last = max(place for place, one in enumerate(meant.turns) if one["role"] == "user")
    earlier, rest = meant.turns[:last], meant.turns[last:]
    if not earlier or draw(st.booleans()):
        return draw(st.sampled_from([{}, {"history": None}, {"history": []}])), meant.turns
    if [one["role"] for one in earlier] == ["user", "assistant"] * (len(earlier) // 2) and draw(
        st.booleans()
    ):
        texts = [one["content"] for one in earlier]
        if not any("calls" in one for one in earlier):
            return {"history": [list(two) for two in zip(texts[::2], texts[1::2], strict=True)]}, rest
    return {"history": write(draw, earlier, written)}, rest


def answers(
    draw: st.DrawFn, meant: Meant, written: Written, opening: Sequence[Message], *, text: bool = True
) -> Row:
    """Write both answers alike; ``opening`` is the prompt in the row, which they may repeat."""
    ways = ["list", "list", "repeat", "repeat otherwise", "repeat last"]
    if len(meant.chosen) == len(meant.rejected) == 1:
        ways += ["single", "text"] if text and meant.is_text else ["single"]
    way = draw(st.sampled_from(ways))
    row: Row = {}
    for name, answer in (("chosen", meant.chosen), ("rejected", meant.rejected)):
        if way == "text":
            row[name] = answer[0]["content"]
        elif way == "single":
            row[name] = _turn(draw, answer[0], draw(st.sampled_from(["list", "null keys", "parts"])), written)
        elif way == "list":
            row[name] = write(draw, answer, written)
        else:
            begin = list(opening)
            if way == "repeat last":
                begin = begin[max(place for place, one in enumerate(begin) if one["role"] == "user") :]
                written.clear = written.clear and len(begin) == len(opening)
            row[name] = write(draw, [*begin, *answer], written, other=way == "repeat otherwise")
    return row


def around(draw: st.DrawFn, row: Row) -> Row:
    """Add columns that mean nothing for the pair, and draw the order of all."""
    more = {
        "id": 7,
        "prompt_id": "3f",
        "source": "s",
        "score_chosen": 8.0,
        "score_rejected": 2.5,
        "model": "m",
        "meta": {"a": None},
    }
    picked = draw(st.lists(st.sampled_from(sorted(more)), max_size=3, unique=True))
    row = {**row, **{key: more[key] for key in picked}}
    return {key: row[key] for key in draw(st.permutations(sorted(row)))}


# One writer a format


def standard(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Texts, trained on as they stand; those that begin with a speaker would be a dialogue's."""
    meant = draw(
        conversations(system=False, history=False, calls=False).filter(lambda one: not one.is_spoken)
    )
    written = Written({}, "standard", as_text=True)
    row = repeating_answers(draw, meant, written)
    row["prompt"] = meant.turns[0]["content"]
    written.row = around(draw, {**row, **system_column(draw, meant), **tools_column(draw, meant)})
    return meant, written


def text_answers(meant: Meant) -> Row:
    return {"chosen": meant.chosen[0]["content"], "rejected": meant.rejected[0]["content"]}


def repeating_answers(draw: st.DrawFn, meant: Meant, written: Written) -> Row:
    """Write text answers that may begin with the question, which is long enough for that to be no chance."""
    if draw(st.integers(0, 2)):
        return text_answers(meant)
    written.loose = True
    asked = f"{meant.turns[-1]['content']}{TELLING}"
    meant.turns[-1] = message("user", asked)
    repeated = draw(st.sampled_from([f"{asked}\n", f"{asked} ", f" {' '.join(asked.split())}\n\n"]))
    return {name: f"{repeated}{text}" for name, text in text_answers(meant).items()}


def conversational(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Messages in ``prompt`` or ``messages``; the system text in a turn, in a column, or in both."""
    meant = draw(conversations())
    written = Written({}, "conversational")
    row, turns = history_column(draw, meant, written)
    where = draw(st.sampled_from(["turn", "column", "both"]))
    if where != "column" and meant.system is not None and not row.get("history"):
        turns = [message("system", meant.system), *turns]
    else:
        where = "column"
    if where != "turn":
        row |= system_column(draw, meant)
    name = draw(st.sampled_from(["prompt", "prompt", "messages"]))
    row |= {name: write(draw, turns, written), **tools_column(draw, meant)}
    # Repeats: what the column holds, or the whole prompt wherever its pieces stand.
    opening = draw(st.sampled_from([turns, meant.prompt, meant.turns]))
    row |= answers(draw, meant, written, opening)
    written.row = around(draw, row)
    return meant, written


def implicit(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Two whole conversations (trl-lib/ultrafeedback_binarized), with or without the question as text beside them."""
    meant = draw(conversations())
    beside = draw(st.sampled_from(["", "text", "text and messages"]))
    written = Written({}, "conversational" if beside else "implicit-prompt")
    row = tools_column(draw, meant)
    opening = meant.prompt
    if draw(st.booleans()):
        opening = meant.turns
        row |= system_column(draw, meant)
    other = draw(st.booleans())
    row |= {
        "chosen": write(draw, [*opening, *meant.chosen], written),
        "rejected": write(draw, [*opening, *meant.rejected], written, other=other),
    }
    users = [one for one in meant.turns if one["role"] == "user"]
    if beside:
        row["prompt"] = draw(st.sampled_from([users[0], users[-1]]))["content"]
    if beside == "text and messages":
        row["messages"] = write(draw, [*opening, *meant.chosen], written)
    written.row = around(draw, row)
    return meant, written


def hh(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Anthropic's dialogues; what would end a turn in them stands in no text."""
    meant = draw(conversations(calls=False))
    written = Written({}, "hh", loose=True)
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    dialogue = "".join(names[one["role"]] + one["content"] for one in meant.turns) + "\n\nAssistant:"
    row: Row = system_column(draw, meant)
    way = draw(st.sampled_from(["whole", "whole", "apart", "whole and prompt"]))
    for name, text in text_answers(meant).items():
        row[name] = text if way == "apart" else f"{dialogue} {text}"
    if way != "whole":
        row["prompt"] = dialogue
    written.row = around(draw, row)
    return meant, written


def sharegpt(draw: st.DrawFn) -> tuple[Meant, Written]:
    """``conversations`` of from/value turns, answers as one turn, a list of turns, text, or the whole conversation."""
    meant = draw(conversations())
    written = Written({}, "sharegpt")
    turns = meant.turns
    row = tools_column(draw, meant)
    if meant.system is not None and draw(st.booleans()):
        turns = meant.prompt
    else:
        row |= system_column(draw, meant)
    row["conversations"] = [_turn(draw, one, "from", written) for one in turns]
    way = draw(st.sampled_from(["turn", "list", "text", "whole"]))
    if way in ("turn", "text") and (len(meant.chosen) != 1 or len(meant.rejected) != 1 or not meant.is_text):
        way = "list"
    for name, answer in (("chosen", meant.chosen), ("rejected", meant.rejected)):
        begin = turns if way == "whole" else []
        value: Any = [_turn(draw, one, "from", written) for one in [*begin, *answer]]
        row[name] = answer[0]["content"] if way == "text" else value[0] if way == "turn" else value
    written.row = around(draw, row)
    return meant, written


def alpaca(draw: st.DrawFn) -> tuple[Meant, Written]:
    """``instruction`` with or without ``input``; two answers in ``output``, or as columns; history as pairs."""
    meant = draw(conversations(calls=False))
    written = Written({}, "alpaca")
    row, turns = history_column(draw, meant, written)
    if len(turns) > 1:  # nowhere but in the column
        row = {
            "history": [
                [a["content"], b["content"]] for a, b in zip(turns[:-1:2], turns[1:-1:2], strict=True)
            ]
        }
    asked = meant.turns[-1]["content"]
    row |= {"instruction": asked, **system_column(draw, meant)}
    if draw(st.booleans()):
        row["input"] = draw(st.sampled_from(["mark0end", " mark0end\n", "mark0end: {x}"]))
        meant.turns[-1] = message("user", f"{asked}\n\n{row['input']}")
        written.loose = True
    else:
        row |= draw(st.sampled_from([{}, {"input": ""}, {"input": None}]))
    two = text_answers(meant)
    row |= {"output": list(two.values())} if draw(st.booleans()) else two
    written.row = around(draw, row)
    return meant, written


def question(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Orca pairs: ``question`` (``query``, ``input``) and ``system``; ``prompt`` beside system, history or tools."""
    meant = draw(conversations(calls=False))
    written = Written({}, "question")
    row, turns = history_column(draw, meant, written)
    if len(turns) > 1:
        row = {"history": write(draw, turns[:-1], written)}
    texts = draw(st.booleans())
    names = ["question", "query", "input"]
    names += ["prompt"] if texts and not meant.is_spoken and (meant.system or row.get("history")) else []
    row |= (
        repeating_answers(draw, meant, written) if texts else answers(draw, meant, written, [meant.turns[-1]])
    )
    row |= {draw(st.sampled_from(names)): meant.turns[-1]["content"], **system_column(draw, meant)}
    written.row = around(draw, row)
    return meant, written


def openai(draw: st.DrawFn) -> tuple[Meant, Written]:
    """OpenAI's preference files."""
    meant = draw(conversations())
    written = Written({}, "openai")

    def turns(messages: Sequence[Message]) -> list[Message]:
        return [
            _turn(draw, one, draw(st.sampled_from(["list", "null keys", "parts"])), written)
            for one in messages
        ]

    asked: Row = {"messages": turns(meant.prompt), "parallel_tool_calls": True}
    if meant.tools or draw(st.booleans()):
        asked["tools"] = meant.tools
    row = {
        "input": asked,
        "preferred_output": turns(meant.chosen),
        "non_preferred_output": turns(meant.rejected),
    }
    written.row = {key: row[key] for key in draw(st.permutations(sorted(row)))}
    return meant, written


def ranked(draw: st.DrawFn) -> tuple[Meant, Written]:
    """Nectar's ranks and UltraFeedback's scores; the best answer against the worst."""
    meant = draw(conversations(history=False, calls=False))
    written = Written({}, "ranked")
    best, worst = text_answers(meant).values()
    texts = [
        (1, best),
        *((2 + place, f"between {place}") for place in range(draw(st.integers(0, 2)))),
        (9, worst),
    ]
    row: Row = system_column(draw, meant)
    asked = meant.turns[0]["content"]
    if draw(st.booleans()):
        row["prompt"] = f"\n\nHuman: {asked}\n\nAssistant: " if draw(st.booleans()) else asked
        row["answers"] = [{"answer": text, "model": "m", "rank": rank} for rank, text in texts]
        name, written.loose = "answers", True
    else:
        row["instruction"], name = asked, "completions"
        row[name] = [
            {"response": text, "model": "m", "overall_score": 9.5 - rank, "critique": "c"}
            for rank, text in texts
        ]
    row[name] = draw(st.permutations(row[name]))
    written.row = around(draw, row)
    return meant, written


WRITERS: dict[str, Callable[[st.DrawFn], tuple[Meant, Written]]] = {
    one.__name__: one
    for one in (standard, conversational, implicit, hh, sharegpt, alpaca, question, openai, ranked)
}


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
