"""A writer for each format of preference data, as its documentation and the published data sets have it.

Each draws a conversation and returns it with the row that it is written down as.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from tests.data.plain_columns import (
    answers,
    around,
    history_column,
    system_column,
    tools_column,
    write,
    write_turn,
)
from tests.data.plain_readings import TELLING, Meant, Message, Row, Written, conversations, message


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
    row["conversations"] = [write_turn(draw, one, "from", written) for one in turns]
    way = draw(st.sampled_from(["turn", "list", "text", "whole"]))
    if way in ("turn", "text") and (len(meant.chosen) != 1 or len(meant.rejected) != 1 or not meant.is_text):
        way = "list"
    for name, answer in (("chosen", meant.chosen), ("rejected", meant.rejected)):
        begin = turns if way == "whole" else []
        value: Any = [write_turn(draw, one, "from", written) for one in [*begin, *answer]]
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
            write_turn(draw, one, draw(st.sampled_from(["list", "null keys", "parts"])), written)
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
