"""Columns of a row, written from a conversation with random variations that change no meaning."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.data.plain_readings import Meant, Message, Row, Written


def write(draw: st.DrawFn, messages: Sequence[Message], written: Written, *, other: bool = False) -> Any:
    """Write messages as a list, in one of the ways data sets do; ``other`` varies what a repeat may differ in."""
    plain = not any("calls" in one for one in messages)
    ways = ["list", "list", "null keys", "parts", "json"]
    ways += ["from", "struct"] if plain else ["from"]
    way = draw(st.sampled_from(ways))
    turns = [write_turn(draw, one, way, written, other) for one in messages]
    if way == "struct":
        return {key: [turn.get(key) for turn in turns] for key in ("role", "content")}
    return json.dumps(turns, ensure_ascii=draw(st.booleans())) if way == "json" else turns


def write_turn(draw: st.DrawFn, one: Message, way: str, written: Written, other: bool = False) -> Message:
    role, content, calls = one["role"], one["content"], one.get("calls", [])
    if other and role in ("user", "system"):
        content = _with_other_spaces(draw, content, written)
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


def _with_other_spaces(draw: st.DrawFn, text: str, written: Written) -> str:
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
            row[name] = write_turn(
                draw, answer[0], draw(st.sampled_from(["list", "null keys", "parts"])), written
            )
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
