"""What a chat template leaves out of a conversation: the pair is dropped by that reason, and nothing else is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from tests.data.preparing import prepare
from tests.data.tokenizers_for_tests import CHATML, STRIPS_THINKING, assistant, bpe, user

ASKED = [user("What is 2 + 2?")]
OTHER = [assistant("no")]
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds."}}


def call(text="", **arguments):
    function = {
        "name": "add",
        "arguments": arguments or {"left": 2, "right": [2.5, None, True], "note": 'é "so"\n'},
    }
    return {**assistant(text), "tool_calls": [{"type": "function", "function": function}]}


def with_content(expression):
    return CHATML.replace("m['content']", expression)


def with_calls(written):
    """ChatML that writes each call ``c`` as the text says."""
    calls = "{% for call in m.tool_calls %}{% set c = call.function %}" + written + "{% endfor %}"
    return CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}" + calls)


def result_of(pair, template):
    tokenizer = bpe(template=template)
    [result] = PairTokenizer(tokenizer, Limits(4000))([(0, pair)])
    return result, tokenizer


def reason(pair, template):
    return result_of(pair, template)[0].reason


def choosing(*answer, prompt=ASKED, tools=()):
    return PreferencePair(prompt, answer, OTHER, tools)


WITHOUT_SYSTEM = CHATML.replace("for m in messages", "for m in messages if m.role != 'system'")
LEFT_OUT = "the chat template leaves out part of the "
ANSWER = PreferencePair(ASKED, [assistant("It is 4, surely.")], OTHER)
SYSTEM = PreferencePair([{"role": "system", "content": "Count well."}, *ASKED], ANSWER.chosen, OTHER)
THOUGHT = PreferencePair(ASKED, [assistant("<think>\nTwo and two.\n</think>\n\n4")], OTHER)
NO_REASON = PreferencePair(ASKED, OTHER, [{**assistant("4"), "reasoning": "Two and two."}])


@pytest.mark.parametrize(
    ("pair", "template", "left_out"),
    [
        (THOUGHT, with_content("m['content'].split('</think>')[-1]"), "chosen answer (reasoning)"),
        (NO_REASON, CHATML, "rejected answer (reasoning)"),
        (ANSWER, with_content("m['content'][:9]"), "prompt (user text)"),
        (ANSWER, with_content("m['content'].split(',')[0]"), "chosen answer (text)"),
        (ANSWER, with_content("m['content'] | upper"), "prompt (user text)"),
        (
            choosing(assistant("so bad")),
            with_content("m.content.replace('bad', 'good')"),
            "chosen answer (text)",
        ),
        (
            SYSTEM,
            WITHOUT_SYSTEM,
            "prompt (system text)",
        ),
        (choosing(call()), CHATML, "chosen answer (tool calls)"),
        # The words of the call stand in the text beside it, too.
        (choosing(call("I add 2 to 2.", x=2)), CHATML, "chosen answer (tool calls)"),
        (choosing(call()), with_calls("{{ c.name }}"), "chosen answer (tool calls)"),
        (choosing(*ANSWER.chosen, tools=[TOOL]), CHATML, "prompt (tools)"),
        (
            PreferencePair([*ASKED, call(), {"role": "tool", "content": "4"}], OTHER, THOUGHT.chosen),
            CHATML,
            "prompt (tool calls)",
        ),
    ],
    ids=[
        *(
            "reasoning in the text",
            "reasoning",
            "cut",
            "cut where the text says so",
            "other letters",
            "other words",
            "system text",
        ),
        *(
            "tool calls",
            "tool calls whose words the text has",
            "arguments",
            "tools",
            "calls of the prompt",
        ),
    ],
)
def test_a_part_that_is_not_written_drops_the_pair_by_name(pair, template, left_out):
    assert reason(pair, template) == LEFT_OUT + left_out


def test_tools_written_one_way_say_nothing_of_tools_written_another():
    template = "{% for tool in tools or [] %}{{ (tool.function or {}) | string }}{% endfor %}" + CHATML
    bare, whole = (choosing(*ANSWER.chosen, tools=[tool]) for tool in ({"name": "subtract"}, TOOL))
    results = PairTokenizer(bpe(template=template), Limits(4000))([(0, bare), (1, whole)])
    assert [result.reason for result in results] == [LEFT_OUT + "prompt (tools)", ""]


JSON = '<call>{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}</call>'


@pytest.mark.parametrize(
    ("pair", "template"),
    [
        (ANSWER, with_content("m['content'] | trim")),
        (ANSWER, with_content("m['content'] | tojson")),
        (choosing(assistant("<b> & 'c'"), prompt=[user('<a> & "b"')]), with_content("m['content'] | e")),
        (choosing(assistant("so\n it\t is"), prompt=[user("a\n\n b")]), with_content("m.content.split() | join(' ')")),
        (choosing(*ANSWER.chosen, prompt=[user("2 /flag")]), with_content("m.content.replace('/flag', '')")),
        (THOUGHT, CHATML),
        (THOUGHT, CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")),
        (choosing(call()), with_calls(JSON)),
        (choosing(call()), with_calls("{{ c | tojson(indent=2) }}")),
        (choosing(call()), with_calls("{{ c | tojson(true, separators=(',', ':')) }}")),
        (
            choosing(call()),
            with_calls("{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}={{ v | tojson }}, {% endfor %})"),
        ),
        (
            choosing(call()),
            with_calls(
                "<function={{ c.name }}>{% for k, v in c.arguments.items() %}\n<parameter={{ k }}>\n"
                "{{ v if v is string else v | tojson }}\n</parameter>{% endfor %}</function>"
            ),
        ),
        (choosing(*ANSWER.chosen, tools=[TOOL]), "{{ tools | tojson }}" + CHATML),
        (choosing(*ANSWER.chosen, prompt=[{"role": "system", "content": " "}, *ASKED]), WITHOUT_SYSTEM),
    ],
    ids=[
        *("trimmed", "as JSON", "escaped", "other white space", "a flag taken out", "reasoning", "reasoning begun"),
        *("calls", "calls in lines", "calls in ASCII", "calls like Python's", "calls in tags", "tools", "blank system"),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_written(pair, template):
    result, _ = result_of(pair, template)
    assert result.pair is not None, result.reason
    assert result.notes == ()


def test_arguments_are_objects_where_a_template_takes_them_and_text_where_it_takes_that_alone():
    """Templates that join texts raise for objects; those that put them into a text would write Python."""
    wanted = '{"left": 2, "right": [2.5, null, true], "note": "é \\"so\\"\\n"}'
    for written in (
        "{{ c.name + c.arguments }}",
        "{{ c.name }}{{ c.arguments }}",
        "{{ c.name }}{{ c.arguments | tojson }}",
    ):
        result, tokenizer = result_of(choosing(call()), with_calls(written))
        assert result.pair is not None, result.reason
        assert tokenizer.decode(result.pair.chosen) == f"add{wanted}<|im_end|>\n"


@pytest.mark.parametrize(
    "content",
    [
        "{% for part in m.content if part is mapping %}{{ part.text }}{% endfor %}",
        "{% for part in m.content %}{{ part.text + '' }}{% endfor %}",
        "{{ m.content[0].text | trim }}",
    ],
    ids=["nothing of a text", "raises for a text", "the first part"],
)
def test_content_is_in_parts_where_a_template_takes_that_alone(content):
    """Templates of models that also see pictures."""
    result, tokenizer = result_of(ANSWER, CHATML.replace("{{ m['content'] }}", content))
    assert result.pair is not None, result.reason
    assert tokenizer.decode(result.pair.chosen) == "It is 4, surely.<|im_end|>\n"


def test_a_call_without_arguments_is_text_where_a_template_takes_that_alone():
    bare = call()
    bare["tool_calls"][0]["function"]["arguments"] = {}
    for written in ("{{ c.name + c.arguments }}", "{{ c.name }}{{ c.arguments | tojson }}"):
        result, tokenizer = result_of(choosing(bare), with_calls(written))
        assert result.pair is not None, result.reason
        assert tokenizer.decode(result.pair.chosen) == "add{}<|im_end|>\n"


def test_a_template_that_draws_at_random_is_an_error():
    with pytest.raises(DataError, match=r"draws at random.*\nSet model.chat_template"):
        reason(ANSWER, "{{ ['Hi', 'Hello'] | random }}" + CHATML)


def test_a_list_that_a_template_would_write_as_python_does_is_not_how_it_takes_content():
    assert (
        reason(ANSWER, with_content("'' if m.content is string else m.content"))
        == f"{LEFT_OUT}prompt (user text)"
    )


def test_inner_turns_that_lose_their_reasoning_are_reported_and_the_last_turn_must_keep_it():
    strips = with_content("m['content'] if loop.last else m['content'].split('</think>')[-1]")
    pair = PreferencePair(
        ASKED, [*THOUGHT.chosen, user("Sure?"), *THOUGHT.chosen], [*OTHER, user("Sure?"), *OTHER]
    )
    result, tokenizer = result_of(pair, strips)
    assert result.pair is not None, result.reason
    assert result.notes == ("the chat template leaves out the reasoning of earlier assistant turns",)
    assert "Sure?" not in tokenizer.decode(result.pair.chosen[result.pair.chosen_scored])
    everywhere = with_content("m['content'].split('</think>')[-1]")
    assert reason(pair, everywhere) == f"{LEFT_OUT}chosen answer (reasoning)"


#: Writes what stands in the question again where the question is not the last message.
REPEATS = CHATML.replace(
    "{{ m['content'] }}", "{{ m['content'] if loop.last else 'Asked: ' ~ m['content'] }}"
)


def test_a_prompt_that_is_written_otherwise_once_it_is_answered_scores_no_word_of_the_user():
    many = PreferencePair([*ASKED, *ANSWER.chosen, user("And 3 + 3?")], [assistant("It is 6.")], OTHER)
    for pair in (ANSWER, many):
        result, tokenizer = result_of(pair, REPEATS)
        assert result.boundary_moved
        said = tokenizer.decode(result.pair.chosen[result.pair.chosen_scored])
        assert said == pair.chosen[0]["content"] + "<|im_end|>\n"
    # Without a generation prompt, nothing tells the answer from the question.
    nameless = REPEATS.partition("{% if add_generation_prompt %}")[0]
    assert reason(ANSWER, nameless) == "the chat template writes the prompt otherwise once it is answered"


PARAMETERS = {"type": "object", "properties": {"left": {"type": "number"}, "right": {"type": "number"}}}


@pytest.mark.parametrize(
    ("written", "unwritten"),
    [
        ("{{ t | tojson }}", False),
        ("{{ f.name }}: {{ f.description }} {{ f.parameters.properties | join(', ') }}", False),
        ("{{ f.name }}", True),
        ("{{ f.name }}: {{ f.description }}", True),
        ("{{ f.name }} {{ f.parameters | tojson }}", True),
    ],
    ids=["JSON", "a signature", "the name alone", "no parameters", "no description"],
)
def test_a_tool_is_written_with_its_description_and_its_parameters_or_the_pair_is_dropped(written, unwritten):
    each = "{% for t in tools or () %}{% set f = t.function %}" + written + "{% endfor %}"
    tool = {"type": "function", "function": {**TOOL["function"], "parameters": PARAMETERS}}
    pair = choosing(*ANSWER.chosen, tools=[tool])
    assert reason(pair, each + CHATML) == (LEFT_OUT + "prompt (tools)" if unwritten else "")


def test_of_a_tool_without_description_and_parameters_the_name_is_enough():
    names = "{% for t in tools or () %}{{ t.function.name }}{% endfor %}"
    bare = {
        "type": "function",
        "function": {"name": "add", "description": "", "parameters": {"properties": {}}},
    }
    assert reason(choosing(*ANSWER.chosen, tools=[bare]), names + CHATML) == ""


def test_keys_of_messages_with_text_that_the_template_does_not_read_are_noted():
    odd = {**assistant("4"), "analysis": "Two and two.", "score": 3, "annotations": [], "id": "m1"}
    pair = PreferencePair([{**ASKED[0], "name": "Ann"}], [odd], OTHER)
    notes = [f'the chat template does not read "{key}" of messages' for key in ("analysis", "name")]
    assert list(result_of(pair, CHATML)[0].notes) == notes
    reads = CHATML.replace("{{ m['content'] }}", "{{ m.name }}{{ m['analysis'] }}{{ m['content'] }}")
    assert not result_of(pair, reads)[0].notes
    strange = PreferencePair(ASKED, [{**assistant("4"), "an (odd": "key"}], OTHER)
    assert list(result_of(strange, CHATML)[0].notes) == [
        'the chat template does not read "an (odd" of messages'
    ]


def test_the_report_counts_what_is_left_out_and_says_what_to_do(recipe):
    template = with_content("m['content'].split('</think>')[-1]")
    rows = [{"prompt": ASKED, "chosen": THOUGHT.chosen, "rejected": OTHER}] * 2
    fine = {"prompt": ASKED, "chosen": ANSWER.chosen, "rejected": OTHER}
    prepared, shown = prepare(recipe([*rows, fine]), bpe(template=template))
    [warning] = shown.warnings
    assert (
        "2 dropped: the chat template leaves out part of the chosen answer (reasoning) (rows 0, 1)" in warning
    )
    assert "Set model.chat_template to a template that writes these parts" in warning
    assert prepared.report.splits["train"].rows_dropped == 2
    with pytest.raises(
        DataError, match=r"\(reasoning\) \(rows 0, 1\)\nSet model.chat_template to a template that writes"
    ):
        prepare(recipe(rows), bpe(template=template))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for m in messages %}\n{{ 'x' + m.content.no }}{% endfor %}",
            "UndefinedError: 'str object' has no attribute 'no' (line 2 of the template)",
        ),
        (
            "a\nb\n{{ messages[0] + 'x' }}",
            "TypeError: unsupported operand type(s) for +: 'dict' and 'str' (line 3 of the template)",
        ),
        (
            "{{ strftime_now('%Y') }}\n{{ 1 + 'x' }}",
            "TypeError: unsupported operand type(s) for +: 'int' and 'str' (line 2 of the template)",
        ),
        # What a row says is not said: every row would have a reason of its own.
        ("{{ {}[messages[0].content] + 'x' }}", "UndefinedError (line 1 of the template)"),
        ("{{ raise_exception('Only two turns') }}", "Only two turns"),
    ],
)  # fmt: skip
def test_a_template_that_fails_says_how_and_where(template, said):
    assert reason(ANSWER, template) == f"the chat template refuses the messages: {said}"


WORDS = st.text(alphabet="ab <>&\"'\\\n{}é日/", min_size=1, max_size=12).filter(str.strip)
LEAVES = st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9, allow_nan=False) | WORDS
ARGUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2)
    ),
)


@settings(max_examples=80, deadline=None)
@given(asked=WORDS, said=WORDS, thought=WORDS, arguments=ARGUMENTS)
def test_whatever_is_said_is_found_where_it_is_written(asked, said, thought, arguments):
    """No pair is dropped for what a template does write, be it JSON, tags or trimmed text."""
    template = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}"
        "{{ m['content'] | trim }}"
        "{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>{% endfor %}",
    )
    answer = {
        **assistant(said),
        "reasoning_content": thought,
        "tool_calls": call(**(arguments or {"a": 1}))["tool_calls"],
    }
    result, _ = result_of(PreferencePair([user(asked)], [answer], OTHER), template)
    assert result.pair is not None, (result.reason, json.dumps(answer))


@settings(max_examples=60, deadline=None)
@given(said=WORDS, thought=st.text("xyz", min_size=8, max_size=20))
def test_whatever_is_thought_is_missed_where_it_is_not_written(said, thought):
    for answer in (
        {**assistant(said), "thinking": thought},
        assistant(f"<think>\n{thought}\n</think>\n\n{said}"),
    ):
        pair = PreferencePair(ASKED, [answer], [assistant("no, never")])
        assert reason(pair, with_content("m['content'].split('</think>')[-1]")).endswith("(reasoning)")


def test_an_empty_thinking_section_that_a_template_adds_is_no_part_of_the_row():
    result, tokenizer = result_of(ANSWER, STRIPS_THINKING)
    assert tokenizer.decode(result.pair.chosen).startswith("<think>\n\n</think>\n\nIt is 4")
    assert result.notes == ()
