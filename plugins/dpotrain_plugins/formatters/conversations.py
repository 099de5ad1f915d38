"""Prompt and answers as one pair of conversations: what the answers repeat of the prompt stands in it once.

Turns are compared by what a chat template writes of them: speaker, words, reasoning and tool calls, give or take white
space; not by keys such as an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from dpotrain.plugin.api import (
    SYSTEM_ROLES,
    Messages,
    PreferencePair,
    UnusableRow,
    is_messages,
    read_messages,
    read_tools,
    reasoning_of,
)
from dpotrain_plugins.formatters.dialogues import is_whole_dialogue, turns_of
from dpotrain_plugins.formatters.shape import OtherShape, Row, column, holds_messages, is_text
from dpotrain_plugins.formatters.texts import without_repeated_prompt


def pair_of(row: Row, prompt: Messages | None, chosen: Any, rejected: Any) -> PreferencePair:
    """Return the pair of a prompt and two answers, with the row's ``system``, ``history`` and ``tools``.

    ``prompt`` is None where both answers are conversations that begin with it. An answer is text (one assistant turn),
    its own messages, or the conversation from the prompt's beginning, or from any of its turns, on. Raises
    UnusableRow where it is not certain which turns are the prompt.
    """
    plain = all(is_text(answer) and not is_whole_dialogue(answer) for answer in (chosen, rejected))
    if plain and prompt and prompt[-1]["role"] == "user":
        _, own_chosen, own_rejected = without_repeated_prompt(prompt[-1]["content"], chosen, rejected)
        if own_chosen is not chosen:
            chosen, rejected = own_chosen.lstrip(), own_rejected.lstrip()
    first, second = as_messages(chosen, "chosen"), as_messages(rejected, "rejected")
    first_system, first = _parted(first)
    second_system, second = _parted(second)
    if not first or not second:
        raise UnusableRow("an answer has no turn but the system's")
    own, turns = _parted(prompt or [])
    column_system = _system(row)
    history_system, earlier = _parted(_history(row))
    given = [*column_system, *own, *history_system]
    if not given and bool(first_system) != bool(second_system):
        raise UnusableRow("only one of chosen and rejected has a system turn")
    if prompt is None:
        shared = _shared(first, second)
        if not shared:
            # Answers alone, without a prompt before them, are another shape.
            alone = first[0]["role"] == "assistant" or second[0]["role"] == "assistant"
            raise (OtherShape if alone else UnusableRow)("chosen and rejected share no leading turn")
        first, second = (_without(shared, answer) for answer in (first, second))
        turns = _joined(earlier, shared)
    else:
        if turns and all(turn["role"] == "assistant" for turn in turns):
            raise UnusableRow("the prompt holds assistant turns alone")
        turns, first, second = _apart(_joined(earlier, turns), first, second)
    if turns and any(_stand_in([turns[-1], *answer[:1]], earlier) for answer in (first, second)):
        raise UnusableRow("history holds the question with its answer")
    system = _one_system(column_system, own, history_system, first_system, second_system)
    if not turns or turns[-1]["role"] == "assistant":
        raise UnusableRow("the prompt ends with an assistant turn" if turns else "prompt is empty")
    return PreferencePair([*system, *turns], first, second, read_tools(row.get("tools")))


def pair_of_whole(row: Row, question: str, first: Messages, second: Messages) -> PreferencePair:
    """Return the pair of two whole conversations and a text beside them, which is one of the turns that they share."""
    if not (_says(first, question) and _says(second, question)):
        raise UnusableRow("prompt is none of the turns that the answers begin with")
    return pair_of(row, None, first, second)


def _says(conversation: Messages, question: str) -> bool:
    """Whether a turn of another than the assistant is this text, give or take white space."""
    words = question.split()
    return any(turn["content"].split() == words for turn in conversation if turn["role"] != "assistant")


def turns_asked(prompt: Any, what: str) -> Messages:
    """Return a prompt's messages; text is one user turn, or a dialogue that ends where the assistant is to speak."""
    if is_whole_dialogue(prompt):
        return turns_of(prompt, what, answered=False)
    return [{"role": "user", "content": prompt}] if is_text(prompt) else read_messages(prompt, what)


def as_messages(answer: Any, what: str) -> Messages:
    """Return an answer's messages; text is one assistant turn, or a dialogue from the human's first turn on."""
    if is_whole_dialogue(answer):
        return turns_of(answer, what)
    return [{"role": "assistant", "content": answer}] if is_text(answer) else read_messages(answer, what)


def same(first: Messages, second: Messages) -> bool:
    """Whether a chat template writes the same, give or take white space, and a name that only one of two turns has."""
    return len(first) == len(second) and all(map(_alike, first, second))


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    names = {str(message["name"]) for message in (first, second) if message.get("name")}
    return len(names) < 2 and _written(first) == _written(second)


def _written(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a chat template writes of a message, its name aside, in a form that compares."""
    calls = [
        (call["function"]["name"], call["function"].get("arguments"))
        for call in message.get("tool_calls", ())
    ]
    role = "system" if message["role"] in SYSTEM_ROLES else message["role"]
    words = message["content"].split()
    called = json.dumps(calls, sort_keys=True, default=str) if calls else ""
    return role, words, str(reasoning_of(message)).split(), called


def _parted(messages: Messages) -> tuple[Messages, Messages]:
    """Return the leading system turns, and the others."""
    system = list(takewhile(lambda message: message["role"] in SYSTEM_ROLES, messages))
    return system, messages[len(system) :]


def _shared(first: Messages, second: Messages) -> Messages:
    """Return the leading turns that two conversations share, of which each keeps at least one turn of its own."""
    if same(first, second):
        raise UnusableRow("chosen and rejected are identical")
    count = sum(1 for _ in takewhile(lambda two: same([two[0]], [two[1]]), zip(first, second, strict=False)))
    return first[: min(count, len(first) - 1, len(second) - 1)]


def _without(turns: Messages, answer: Messages) -> Messages:
    """Return a whole conversation's own turns after those of the prompt; both must go on with the assistant."""
    own = _own(turns, answer)
    if own[0]["role"] != "assistant":
        raise UnusableRow("chosen and rejected answer different prompts")
    return own


def _apart(turns: Messages, first: Messages, second: Messages) -> tuple[Messages, Messages, Messages]:
    """Return the prompt's turns and each answer's own, where the answers may repeat turns of the prompt."""
    own = _own(turns, first), _own(turns, second)
    if _are_answers(turns, *own):
        return turns, *own
    whole = all(answer[0]["role"] != "assistant" for answer in (first, second))
    if whole:
        shared = _shared(first, second)
        context = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        # The prompt is some of the turns before the answers, or ends with the answer that the data was made from.
        inside = bool(context) and _stand_in(context, shared)
        goes_on = bool(context) and context is not turns and not _meets(turns, shared)
        if inside or goes_on:
            shared = shared if inside else [*turns, *shared]
            own = _own(shared, first), _own(shared, second)
            if _are_answers(shared, *own):
                return shared, *own
    elif turns and turns[-1]["role"] == "assistant":
        raise UnusableRow("the prompt ends with an assistant turn")
    raise UnusableRow("the answers begin with turns that are not the prompt's")


def _are_answers(turns: Messages, *answers: Messages) -> bool:
    """Whether all answers begin with the assistant, and the prompt's turns do not end with it."""
    asked = bool(turns) and turns[-1]["role"] != "assistant"
    return asked and all(answer and answer[0]["role"] == "assistant" for answer in answers)


def _joined(earlier: Messages, turns: Messages) -> Messages:
    """Return earlier turns and these, where what both have stands once.

    Raises UnusableRow where the earlier turns hold these and go on: which of them are the prompt is not certain.
    """
    if earlier and _stand_in(earlier, turns):
        return turns
    common = _overlap(earlier, turns)
    if not common and len(turns) > 1 and _stand_in(turns, earlier):
        raise UnusableRow("history holds turns of the prompt")
    return [*earlier[: len(earlier) - common], *turns]


def _stand_in(part: Messages, turns: Messages) -> bool:
    """Whether some turns stand in others, one after the other."""
    return any(same(part, turns[start : start + len(part)]) for start in range(len(turns) - len(part) + 1))


def _own(turns: Messages, answer: Messages) -> Messages:
    """Return an answer's turns, at least one, without those at its beginning that are the last ones of these."""
    return answer[_overlap(turns, answer[:-1]) :]


def _overlap(before: Messages, after: Messages) -> int:
    """Return how many of the last turns before are the first ones after."""
    most = min(len(before), len(after))
    return next((count for count in range(most, 0, -1) if same(before[-count:], after[:count])), 0)


def _meets(turns: Messages, shared: Messages) -> bool:
    """Whether a turn of the user stands in both."""
    return any(same([one], [other]) for one in turns for other in shared if one["role"] != "assistant")


def _system(row: Row) -> Messages:
    """Return the ``system`` column's turns: from text, a message, or a list of them."""
    value = column(row, "system")
    if value is None:
        return []
    if isinstance(value, list) and len(value) == 1 and is_text(value[0]):
        value = value[0]
    if is_text(value):
        return [{"role": "system", "content": value}]
    if not holds_messages(value):
        raise UnusableRow("system is neither text nor a system message")
    messages = read_messages(value, "system")
    if any(message["role"] not in SYSTEM_ROLES for message in messages):
        raise UnusableRow("system holds a turn of another speaker")
    return messages


def _one_system(*found: Messages) -> Messages:
    """Return the system turns of the pair; raise UnusableRow where two places have different ones."""
    present = [messages for messages in found if messages]
    if any(not same(messages, present[0]) for messages in present[1:]):
        raise UnusableRow("the row has different system texts")
    return present[0] if present else []


def _history(row: Row) -> Messages:
    """Return the ``history`` column's turns: messages, or [user, assistant] texts."""
    value = column(row, "history")
    if value is None:
        return []
    if is_messages(value):
        return read_messages(value, "history")
    if is_text(value):  # a table in a text file has nothing else
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(_is_exchange(one) for one in value):
        raise UnusableRow("history is neither messages nor a list of [user, assistant] texts")
    return [
        {"role": role, "content": text}
        for exchange in value
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]


def _is_exchange(value: Any) -> bool:
    return isinstance(value, Sequence) and not is_text(value) and len(value) == 2 and all(map(is_text, value))
