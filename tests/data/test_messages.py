"""Messages in any form a data set stores them in, brought into the form that chat templates take."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.messages.message import normalised, read_messages
from dpotrain.core.messages.tools import read_tools
from dpotrain.core.messages.values import is_empty, unwrapped
from dpotrain.core.pair import UnusableRow

ASK, SAY = {"role": "user", "content": "Which way?"}, {"role": "assistant", "content": "Left."}


def content(value):
    return normalised({"role": "user", "content": value}, "prompt")["content"]


@pytest.mark.parametrize(
    "value",
    [
        json.dumps([ASK, SAY]),
        json.dumps({"messages": [ASK, SAY]}),
        {"messages": [ASK, SAY]},
        {"conversations": [{"from": "human", "value": "Which way?"}, {"from": "gpt", "value": "Left."}]},
        [json.dumps(ASK), json.dumps(SAY)],
        {"role": ["user", "assistant"], "content": ["Which way?", "Left."]},
        (ASK, SAY),
        [{"role": ["user", "assistant"], "content": ["Which way?", "Left."]}],
        json.dumps([{"role": ["user", "assistant"], "content": ["Which way?", "Left."]}]),
        [{"messages": [ASK, SAY]}],
        [ASK, None, SAY],
    ],
)
def test_a_conversation_in_another_form_is_the_same_conversation(value):
    assert read_messages(value, "chosen") == [ASK, SAY]


@pytest.mark.parametrize(
    "value", [str([ASK, SAY]), str(SAY), "[{'role': 'user'", '[{"role": "user", "content": "cut']
)
def test_text_that_is_messages_and_no_json_is_refused(value):
    with pytest.raises(UnusableRow, match=r"^chosen is text that looks like messages and is not JSON$"):
        read_messages(value, "chosen")


@pytest.mark.parametrize("value", [[[ASK, SAY]], [[ASK], [SAY]]])
def test_text_that_is_several_conversations_is_refused(value):
    with pytest.raises(UnusableRow, match=r"^chosen is text that holds a list of conversations$"):
        unwrapped(json.dumps(value), "chosen")
    with pytest.raises(UnusableRow, match=r"^chosen is text that looks like messages and is not JSON$"):
        unwrapped(str(value), "chosen")


@pytest.mark.parametrize(
    "text",
    ['{"city": "Oslo"}', '{"role": "admin", "content": "all rights"}', '["a", "b"]', "[1] See {role}."],
)
def test_other_json_stays_the_text_that_it_is(text):
    assert unwrapped(text, "chosen") == text


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": "Which way?"}],
        [{"type": "text", "text": "Which "}, {"type": "input_text", "text": "way?"}],
        [{"text": "Which way?", "type": None, "image": None}],
        {"type": "output_text", "text": "Which way?", "annotations": [{"a": "b"}]},
        ["Which way?"],
        [None, "Which way?"],
    ],
)
def test_content_in_parts_is_its_text(parts):
    assert content(parts) == "Which way?"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([{"type": "image", "image": "a.png"}, {"type": "text", "text": "x"}], 'has a part of type "image"'),
        ([{"type": "text", "text": "x", "image": "a.png"}], "is not text"),
        ([{"type": "text", "text": None}], "is not text"),
        (["a", "b"], "is a list of several texts"),
        (7, "is not text"),
        ([7], "is not text"),
        ([["a"]], "is not text"),
        ({"a": "b"}, "is not text"),
    ],
)
def test_content_that_no_text_template_writes_is_refused(value, reason):
    with pytest.raises(UnusableRow, match=f"^content of prompt {reason}"):
        content(value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"content": "Yes."}, {"refusal": "No."}),
        ({"tool_calls": [{"name": "look"}]}, {"function_call": {"name": "look"}}),
    ],
)
def test_a_turn_that_says_two_things_is_refused(first, second):
    names = " and ".join([*first, *second])
    with pytest.raises(UnusableRow, match=f"^chosen has a turn with both {names}$"):
        normalised({"role": "assistant", **first, **second}, "chosen")
    assert normalised({"role": "assistant", **first, **dict.fromkeys(second)}, "chosen")


def test_a_picture_beside_the_content_is_refused():
    message = {"role": "user", "content": "What is this?", "images": ["a.png"]}
    with pytest.raises(UnusableRow, match=r'^prompt has a turn with "images", which is not text$'):
        normalised(message, "prompt")
    assert content("What is this?") == normalised({**message, "images": []}, "prompt")["content"]


def test_reasoning_parts_are_the_reasoning():
    value = [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "Left."}]
    message = normalised({"role": "assistant", "content": value}, "chosen")
    assert message == {"role": "assistant", "content": "Left.", "reasoning_content": "Hm."}


def test_a_refusal_in_a_key_of_its_own_is_the_content():
    message = normalised({"role": "assistant", "content": None, "refusal": "No."}, "rejected")
    assert message == {"role": "assistant", "content": "No."}


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "map", "zoom": None}}}


@pytest.mark.parametrize(
    "calls",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([CALL])},
        {
            "tool_calls": [{"type": None, "function": {**CALL["function"], "parameters": None}}],
            "content": None,
        },
        {"tool_calls": [{"function": {"name": "look", "arguments": '{"at": "map", "zoom": null}'}}]},
        {"tool_calls": [{"name": "look", "arguments": {"at": "map", "zoom": None}}]},
        {"function_call": {"name": "look", "arguments": '{"at": "map", "zoom": null}'}},
    ],
)
def test_tool_calls_are_objects_and_null_in_their_arguments_is_kept(calls):
    message = normalised({"role": "assistant", **calls}, "chosen")
    assert message == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            {"function": {"name": "look", "arguments": "{at"}},
            "arguments of a tool call of chosen are not a JSON",
        ),
        (
            {"function": {"name": "look", "arguments": [1]}},
            "arguments of a tool call of chosen are not a JSON",
        ),
        ({"function": {"arguments": {}}}, "a tool call of chosen names no function"),
        (5, "tool_calls of chosen is not a list of objects"),
    ],
)
def test_a_tool_call_that_is_none_is_refused(call, reason):
    with pytest.raises(UnusableRow, match=reason):
        normalised({"role": "assistant", "tool_calls": [call]}, "chosen")


def test_null_in_tool_schemas_is_kept():
    schema = {"name": "look", "parameters": {"at": {"default": None, "enum": ["map", None]}}}
    assert read_tools(json.dumps([schema])) == read_tools([schema]) == [schema]


@pytest.mark.parametrize(
    "value", [None, "", "  ", "[]", "{}", "null", [], {}, [None], [""], {"a": None}, [[{}]]]
)
def test_nothing_is_recognised_in_every_form(value):
    assert is_empty(value)
    assert not is_empty([value, 0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"])},
    optional={
        "content": st.text(max_size=8)
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)}), max_size=3),
        "reasoning_content": st.text(max_size=8),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": JSON})}
            ),
            max_size=2,
        ),
        "id": st.integers(),
    },
)


@settings(max_examples=200, deadline=None)
@given(MESSAGES)
def test_what_is_normalised_stays_as_it_is(message):
    try:
        once = normalised(message, "chosen")
    except UnusableRow:
        return
    assert normalised(once, "chosen") == once
    assert isinstance(once["content"], str)
    given_calls, calls = message.get("tool_calls") or [], once.get("tool_calls", [])
    for before, after in zip(given_calls, calls, strict=True):
        arguments = before["function"]["arguments"] or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments) if arguments.strip() else {}
        assert after["function"]["arguments"] == arguments


@settings(max_examples=100, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=3), st.booleans())
def test_json_text_of_a_conversation_reads_as_the_conversation(messages, wrapped):
    said = [message | {"content": message.get("content", "")} for message in messages]
    text = json.dumps({"messages": said} if wrapped else said)
    assert unwrapped(text, "chosen") == said
