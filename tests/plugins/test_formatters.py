"""Each published shape of preference data, read by the formatter it is meant for, and found by ``auto``."""

import json

import datasets
import pytest

from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.read_row import read_row
from dpotrain.plugin.api import read_messages
from dpotrain_plugins.formatters import dpotrain_dataset_formatters

FORMATTERS = {cls.name: cls(cls.Options()) for cls in dpotrain_dataset_formatters()}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def turn(speaker, text):
    return {"from": speaker, "value": text}


Q, X, R, A, B = user("q"), assistant("x"), user("r"), assistant("a"), assistant("b")
CHAT = PreferencePair([Q], [A], [B], [])
LONG = PreferencePair([Q, X, R], [A], [B], [])
WITH_SYSTEM = PreferencePair([system("s"), Q], [A], [B], [])
#: Answers as text, as single messages, as lists of them, and as conversations that begin with the prompt.
TEXTS = {"chosen": "a", "rejected": "b"}
SINGLE = {"chosen": A, "rejected": B}
MESSAGES = {"chosen": [A], "rejected": [B]}
WHOLE = {"chosen": [Q, A], "rejected": [Q, B]}
TURNS = {"chosen": [Q, X, R, A], "rejected": [Q, X, R, B]}
SCORES = {"score_chosen": 8.0, "score_rejected": 4.5}
HH = "\n\nHuman: q\n\nAssistant:"

#: Shape, the formatter that auto must decide on, a row, and the pair in it.
SHAPES = {
    "plain strings": ("standard", {"prompt": "q", **TEXTS}, PreferencePair("q", "a", "b")),
    "messages": ("conversational", {"prompt": [Q], **MESSAGES}, CHAT),
    "messages, answers as single messages": ("conversational", {"prompt": [Q], **SINGLE}, CHAT),
    "messages, answers as text": ("conversational", {"prompt": [Q], **TEXTS}, CHAT),
    "messages, answers repeating the prompt": ("conversational", {"prompt": [Q], **WHOLE}, CHAT),
    "prompt text, answers as assistant messages": ("conversational", {"prompt": "q", **MESSAGES}, CHAT),
    "UltraFeedback binarized of HuggingFaceH4": (
        "conversational",
        {"prompt": "q", "prompt_id": "3f", **WHOLE, "messages": [Q, A], **SCORES},
        CHAT,
    ),
    "prompt text beside conversations of several turns": ("conversational", {"prompt": "r", **TURNS}, LONG),
    "messages with a system column": (
        "conversational",
        {"system": "s", "prompt": [Q], **MESSAGES},
        WITH_SYSTEM,
    ),
    "UltraFeedback binarized of trl-lib": ("implicit-prompt", {**WHOLE, **SCORES}, CHAT),
    "conversations of several turns without prompt": ("implicit-prompt", TURNS, LONG),
    "texts that begin with the prompt": (
        "implicit-prompt",
        {key: f"### Question:\nq\n\n### Response:\n{text}" for key, text in TEXTS.items()},
        PreferencePair("### Question:\nq\n\n### Response:\n", "a", "b"),
    ),
    "Anthropic HH": (
        "hh",
        {key: f"{HH} x\n\nHuman: r\n\nAssistant: {text}" for key, text in TEXTS.items()},
        LONG,
    ),
    "Anthropic HH with the prompt apart": ("hh", {"prompt": HH, "chosen": " a", "rejected": " b"}, CHAT),
    "ShareGPT": (
        "sharegpt",
        {
            "conversations": [turn("system", "s"), turn("human", "q")],
            "chosen": turn("gpt", "a"),
            "rejected": turn("gpt", "b"),
        },
        WITH_SYSTEM,
    ),
    "ShareGPT with text answers and a system column": (
        "sharegpt",
        {"system": "s", "conversations": [turn("user", "q")], **TEXTS},
        WITH_SYSTEM,
    ),
    "Alpaca": ("alpaca", {"instruction": "q", "input": "", **TEXTS}, CHAT),
    "Alpaca with input": (
        "alpaca",
        {"instruction": "q", "input": "i", **TEXTS},
        PreferencePair([user("q\n\ni")], [A], [B], []),
    ),
    "Alpaca with the question in both columns": (
        "alpaca",
        {"instruction": "q", "input": "q\n", **TEXTS},
        CHAT,
    ),
    "Alpaca with two outputs": ("alpaca", {"instruction": "q", "input": None, "output": ["a", "b"]}, CHAT),
    "Alpaca with system and history": (
        "alpaca",
        {"instruction": "r", "history": [["q", "x"]], "system": "s", **TEXTS},
        PreferencePair([system("s"), *LONG.prompt], [A], [B], []),
    ),
    "Orca pairs": ("question", {"system": "s", "question": "q", **TEXTS}, WITH_SYSTEM),
    "Orca pairs with an empty system text": ("question", {"system": "", "question": "q", **TEXTS}, CHAT),
    "texts beside a query and a system text": (
        "question",
        {"query": "q", "system": "s", **TEXTS},
        WITH_SYSTEM,
    ),
    "texts beside an input": ("question", {"input": "q", **TEXTS}, CHAT),
    "answers as messages beside a question": ("question", {"question": "q", **MESSAGES}, CHAT),
    "answers as text beside messages": (
        "conversational",
        {"messages": [system("s"), Q], **TEXTS},
        WITH_SYSTEM,
    ),
    "conversations as JSON text": ("implicit-prompt", {key: json.dumps(TURNS[key]) for key in TURNS}, LONG),
    "answers as JSON text beside a prompt text": (
        "conversational",
        {"prompt": "q", **{key: json.dumps(MESSAGES[key]) for key in MESSAGES}},
        CHAT,
    ),
    "OpenAI's preference files": (
        "openai",
        {"input": {"messages": [Q], "tools": []}, "preferred_output": [A], "non_preferred_output": [B]},
        CHAT,
    ),
    "prompt beside history": ("question", {"history": [["q", "x"]], "prompt": "r", **TEXTS}, LONG),
    "system beside prompt": ("question", {"system": "s", "prompt": "q", **TEXTS}, WITH_SYSTEM),
}


class Rows(list):
    fingerprint = ""
    columns: list[str] = []  # noqa: RUF012


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_decides_on_the_right_formatter_and_it_reads_the_pair(shape):
    name, row, pair = SHAPES[shape]
    decision = choose_formatter(Rows([row] * 3), dpotrain_dataset_formatters(), None, {})
    assert decision.formatter.name == name
    assert read_row(decision.formatter, row, 0).pairs == (pair,)


@pytest.mark.parametrize(
    "shape",
    # With one answer gone, nothing is left to tell these by.
    sorted(set(SHAPES) - {"Alpaca with two outputs", "texts that begin with the prompt"}),
)
def test_a_row_with_one_answer_missing_is_judged_by_the_rest(shape):
    name, row, _ = SHAPES[shape]
    for answer in [key for key in row if key in ("chosen", "rejected", "preferred_output")]:
        for nothing in (None, "" if isinstance(row[answer], str) else None):
            judged = FORMATTERS[name].recognises(row | {answer: nothing})
            assert judged, answer


@pytest.mark.parametrize("shape", SHAPES)
def test_none_in_nested_columns_is_absent(shape):
    """Arrow fills in the keys that only some rows have."""
    name, row, pair = SHAPES[shape]
    padded = datasets.Dataset.from_list([row, _with_more_keys(row)])
    decision = choose_formatter(Rows(list(padded)), dpotrain_dataset_formatters(), None, {})
    assert decision.formatter.name == name
    assert decision.formatter.format(padded[0]) == pair


def _with_more_keys(row):
    def more(value):
        if isinstance(value, dict):
            return {**value, "name": "n", "tool_calls": [{"function": {"name": "f"}}]}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [more(one) for one in value]
        return value

    return {key: more(value) for key, value in row.items()}


ROLES = {
    "user": ["human", "user"],
    "assistant": ["gpt", "assistant", "function_call"],
    "tool": ["tool", "observation"],
    "system": ["system"],
}


@pytest.mark.parametrize(
    ("role", "speaker"), [(role, name) for role, names in ROLES.items() for name in names]
)
def test_sharegpt_speakers(role, speaker):
    assert read_messages([turn(speaker, "text")], "x") == [{"role": role, "content": "text"}]


def test_a_function_call_becomes_a_tool_call():
    [message] = read_messages([turn("function_call", '{"name": "f", "arguments": {"x": 1}}')], "x")
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    }


def test_an_unknown_speaker_is_a_reason():
    with pytest.raises(UnusableRow, match=r'^conversations has a turn of unknown role "narrator"$'):
        FORMATTERS["sharegpt"].format({"conversations": [turn("narrator", "q")], **TEXTS})


@pytest.mark.parametrize("tools", [[{"name": "f"}], '[{"name": "f"}]', ['{"name": "f"}'], {"name": "f"}])
def test_tools_come_as_objects_or_as_json_text(tools):
    row = SHAPES["ShareGPT"][1] | {"tools": tools}
    assert FORMATTERS["sharegpt"].format(row).tools == [{"name": "f"}]


@pytest.mark.parametrize("tools", ["[{", "[3]", [3], ["{"]])
def test_tools_that_are_none_drop_the_row(tools):
    with pytest.raises(UnusableRow, match="tools is not"):
        FORMATTERS["conversational"].format(SHAPES["messages"][1] | {"tools": tools})


def test_messages_as_a_struct_of_lists_are_read():
    row = {
        "prompt": {"role": ["user"], "content": ["q"]},
        "chosen": {"role": ["assistant"], "content": ["a"]},
        "rejected": {"role": ["assistant"], "content": ["b"]},
    }
    assert FORMATTERS["conversational"].recognises(row)
    assert FORMATTERS["conversational"].format(row) == CHAT


def test_a_prompt_that_the_conversations_do_not_contain_is_a_reason():
    row = {"prompt": "z", **WHOLE}
    with pytest.raises(UnusableRow, match="prompt is none of the turns"):
        FORMATTERS["conversational"].format(row)


def test_hh_dialogues_keep_the_system_text():
    row = {"system": "s", "chosen": f"{HH} a", "rejected": f"{HH} b"}
    assert FORMATTERS["hh"].format(row) == WITH_SYSTEM


def test_hh_dialogue_that_ends_with_the_human_is_a_reason():
    row = {"chosen": f"{HH} a", "rejected": f"{HH} b\n\nHuman: why"}
    with pytest.raises(UnusableRow, match=r"^rejected does not end with the assistant$"):
        FORMATTERS["hh"].format(row)


def test_hh_keeps_what_looks_like_a_speaker_within_a_line():
    row = {"chosen": f"{HH} Human: is a\nAssistant: b", "rejected": f"{HH} c"}
    assert FORMATTERS["hh"].format(row).chosen == [assistant("Human: is a\nAssistant: b")]
