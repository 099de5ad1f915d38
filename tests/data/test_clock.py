"""Templates that read the clock read one time in all of a run, also where it is resumed on another day."""

from datetime import datetime

import pytest

from dpotrain.core.errors import RecipeError
from dpotrain.core.pair import PreferencePair
from dpotrain.data.tokens.chat_template import TemplateInputs, clock_values
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.data.preparing import prepare
from tests.data.tokenizers_for_tests import CHATML, assistant, bpe, user

#: Another text at every call.
MICROSECONDS = "<|im_start|>system\n{{ strftime_now('%H:%M:%S.%f') }}<|im_end|>\n" + CHATML
DATE = MICROSECONDS.replace("%H:%M:%S.%f", "%d %b %Y")
THEN, LATER = "2026-01-31T23:59:58.123456", "2026-02-01T08:00:00"
CHAT = [
    {
        "prompt": [user(f"Is it late, {n}?")],
        "chosen": [assistant("Not yet.")],
        "rejected": [assistant("Very.")],
    }
    for n in range(3)
]
PAIR = PreferencePair(CHAT[0]["prompt"], CHAT[0]["chosen"], CHAT[0]["rejected"])


def rendered(template, clock=THEN, **arguments):
    tokenizer = bpe(template=template)
    inputs = TemplateInputs(arguments, datetime.fromisoformat(clock))
    [result] = PairTokenizer(tokenizer, Limits(1000), inputs)([(0, PAIR)])
    assert result.pair is not None, result.reason
    assert not result.boundary_moved
    return tokenizer.decode(result.pair.prompt)


def test_prompt_and_answers_are_rendered_at_one_time():
    assert "\n23:59:58.123456<|im_end|>" in rendered(MICROSECONDS)


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%Y-%m-%d", "%-d. %B", "100%% at %I:%M %p", "%A %j", "%%d %d", "%x %X %c"]
)
@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('FORM') }}",
        "{% if strftime_now is defined %}{{ strftime_now('FORM') + '' }}{% endif %}",
        "{% macro today() %}{{ strftime_now('FORM') }}{% endmacro %}{{ today() }}",
        "{% set now = strftime_now %}{% for _ in [1] %}{{ now(format='FORM') }}{% endfor %}",
        "\n  {% if true %}\n{{ strftime_now('FORM') }}{% endif %}",
    ],
    ids=["called", "asked for", "in a macro", "by another name", "after white space"],
)
def test_a_format_is_what_python_makes_of_it(template, form):
    expected = datetime.fromisoformat(THEN).strftime(form)
    assert (
        rendered(template.replace("FORM", form) + CHATML)
        .lstrip("\n")
        .startswith(f"{expected}<|im_start|>user")
    )


def test_a_format_may_come_from_an_argument():
    assert rendered("{{ strftime_now(form) }}" + CHATML, form="%Y/%m").startswith("2026/01<|im_start|>")
    tight = "{%if true%}{{ strftime_now(form) }}{%-endif-%}" + CHATML
    assert rendered(tight, form="%Y/%m").startswith("2026/01<|im_start|>")


def test_a_tag_is_no_format():
    source = "{%for _ in [1]%}{%-set day = strftime_now('%d')%}{%endfor%}"
    now, later = (datetime(2026, 1, 31, 12, 0, 0, microsecond) for microsecond in (1, 2))
    assert (
        clock_values(source, now) == clock_values(source, later) == (("%%", "\0"), ("%d", "31"), ("\0", "%"))
    )


def test_the_report_says_which_time_it_was_and_a_recipe_can_set_it(recipe):
    prepared, _ = prepare(recipe(CHAT), bpe(template=DATE), clock=THEN)
    assert prepared.report.as_json()["clock"] == THEN
    line = f"the chat template reads the clock: it is {THEN} in all of the run (data.clock)"
    assert prepared.report.changes() == [line]
    assert line in prepared.report.summary_lines()
    prepared, _ = prepare(recipe(CHAT, clock="2020-02-02"), bpe(template=DATE), clock=THEN)
    assert prepared.report.clock == "2020-02-02"
    assert "02 Feb 2020" in bpe().decode(prepared.train[0].prompt)


@pytest.mark.parametrize("template", [DATE, CHATML], ids=["plain text", "no clock"])
def test_nothing_is_said_where_no_clock_is_read(recipe, template):
    rows = [{"prompt": "q", "chosen": " a", "rejected": " b"}] if template is DATE else CHAT
    formatter = StandardFormatter(StandardFormatter.Options()) if template is DATE else None
    prepared, _ = prepare(recipe(rows, formatter=formatter), bpe(template=template), clock=THEN)
    assert prepared.report.clock is None
    assert prepared.report.changes() == []


def folders(cache):
    return len([path for path in (cache / "tokens").iterdir() if path.is_dir()])


def test_cached_tokens_are_found_as_long_as_the_template_reads_the_same(recipe, tmp_path):
    cache = tmp_path / "cache"
    for template, clocks, entries in (
        (CHATML, (THEN, LATER), 1),
        (DATE, (THEN, "2026-01-31T00:00:00"), 2),
        (DATE, (LATER,), 3),
        (MICROSECONDS, (THEN, "2026-01-31T23:59:58.123457"), 5),
    ):
        for clock in clocks:
            prepare(recipe(CHAT), bpe(template=template), cache=cache, clock=clock)
        assert folders(cache) == entries


def test_arguments_of_the_template_are_part_of_the_key(recipe, tmp_path):
    cache, template = tmp_path / "cache", "{{ mood }}" + CHATML
    tokens = [
        prepare(recipe(CHAT, template_arguments={"mood": mood}), bpe(template=template), cache=cache)[0]
        .train[0]
        .prompt.tolist()
        for mood in ("calm", "wild", "calm")
    ]
    assert folders(cache) == 2
    assert tokens[0] == tokens[2] != tokens[1]


def test_named_templates_without_a_default_are_refused_before_a_row_is_read(recipe):
    tokenizer = bpe(template={"rag": CHATML, "tool_use": CHATML})
    made = recipe(CHAT)
    made.source.load = None
    with pytest.raises(RecipeError) as error:
        prepare(made, tokenizer)
    assert "has named chat templates (rag, tool_use), and none of them is the default" in str(error.value)
    assert 'model.chat_template = "tool_use"' in str(error.value)


def test_pairs_with_tools_are_rendered_by_the_template_for_tools(recipe):
    tokenizer = bpe(template={"default": CHATML, "tool_use": "{{ tools[0].name }} " + CHATML})
    tool = PreferencePair(PAIR.prompt, PAIR.chosen, PAIR.rejected, [{"name": "search"}])
    with_tools, without = PairTokenizer(tokenizer, Limits(1000))([(0, tool), (1, PAIR)])
    assert tokenizer.decode(with_tools.pair.prompt).startswith("search <|im_start|>")
    assert tokenizer.decode(without.pair.prompt).startswith("<|im_start|>")
