"""Rows that nobody should have written are dropped and counted, and take neither the run nor the report with them."""

import json

import pytest

from dpotrain.data.formats.choose_formatter import describe
from dpotrain.data.split_report import OTHER_REASONS, SplitReport
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.plugin.api import Recognition
from dpotrain_plugins.formatters.conversational import ConversationalFormatter
from dpotrain_plugins.formatters.implicit import ImplicitPromptFormatter, prompt_cut
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.fuzz.junk import nested
from tests.support import tiny_tokenizer

ASKS, SAYS, SAYS_NO = (
    [{"role": role, "content": text}]
    for role, text in (("user", "How?"), ("assistant", "So."), ("assistant", "No."))
)
CHAT = {"prompt": ASKS, "chosen": SAYS, "rejected": SAYS_NO}


def dropped(row, formatter=ConversationalFormatter):
    """Return why the row is dropped, or nothing."""
    tokenize = RowTokenizer(formatter(formatter.Options()), PairTokenizer(tiny_tokenizer(), Limits(64)))
    report = tokenize([(0, row)]).report
    assert report.rows_read == 1
    return "".join(report.dropped)


def test_a_row_in_order_is_kept():
    assert dropped(CHAT) == ""


@pytest.mark.parametrize(
    "row", [{**CHAT, "tools": "[" * 5000}, {**CHAT, "tools": f'[{{"n": {"9" * 5000}}}]'}]
)
def test_tools_that_are_not_json_are_reported(row):
    assert dropped(row) == "tools is not JSON"


@pytest.mark.parametrize("part", ["prompt", "chosen"])
def test_a_row_too_deep_for_python_is_reported(part):
    deep = {"role": "user", "content": nested(2000)}
    assert dropped({**CHAT, part: [deep]}) == "the row is nested too deeply"
    formatter = ImplicitPromptFormatter(ImplicitPromptFormatter.Options())
    with pytest.raises(RecursionError):
        formatter.recognises({"chosen": [deep], "rejected": [deep, *SAYS]})


def test_a_function_call_that_is_no_json_is_text():
    call = [{"from": "function_call", "value": "[" * 5000}]
    assert dropped({**CHAT, "chosen": call}) in ("", "chosen and rejected differ only beyond max_length")


@pytest.mark.parametrize("formatter", [StandardFormatter, ConversationalFormatter])
def test_half_a_character_is_reported_and_other_rows_go_on(formatter):
    row = {"prompt": "How?", "chosen": " a\ud800", "rejected": " b"} if formatter is StandardFormatter else (
        {**CHAT, "chosen": [{"role": "assistant", "content": "a\udfff"}]}
    )  # fmt: skip
    assert dropped(row, formatter) == "the text holds half a character"


@pytest.mark.parametrize("content", [7, [7], {"a": 1}, True])
def test_content_that_is_not_text_is_reported(content):
    assert (
        dropped({**CHAT, "prompt": [{"role": "user", "content": content}]}) == "content of prompt is not text"
    )


def test_an_answer_of_a_thousand_turns_is_reported():
    """Each turn is found by writing the conversation up to it: the work grows with the square."""
    turns = [{"role": ("assistant", "user")[number % 2], "content": str(number)} for number in range(1001)]
    assert (
        dropped({**CHAT, "chosen": turns}) == "more than 1000 messages, several of them in the chosen answer"
    )


def test_reasons_are_short_and_few_whatever_rows_say():
    report = SplitReport()
    for number in range(1000):
        report.drop(number, f"unknown role {number} \ud800\n{'x' * 10_000}")
    part = SplitReport()
    part.add(report)
    for one in (report, part):
        assert sum(dropped.count for dropped in one.dropped.values()) == 1000
        assert len(one.dropped) <= 51
        assert one.dropped[OTHER_REASONS].count == 950
        assert max(map(len, one.dropped)) <= 200
        json.dumps(one.as_json(), ensure_ascii=False).encode()
        assert all(len(line.splitlines()) == 1 for line in one.drop_lines())


def test_a_row_of_many_columns_is_described_in_a_line():
    assert describe({f"{'k' * 99}{number}": 1 for number in range(500)}).count(",") == 12
    assert len(describe({"k" * 10_000: 1})) < 80
    assert describe({"two\n\nlines": 1}) == "object with two lines"


def test_a_million_line_breaks_are_cut_at_once():
    """The places to cut at were each judged by copying what is before and after them: an hour for one row."""
    first, second = "\n" * 1_000_000 + "a", "\n" * 1_000_000 + "b"
    assert (
        ImplicitPromptFormatter(ImplicitPromptFormatter.Options()).recognises(
            {"chosen": first, "rejected": second}
        )
        == Recognition.NO
    )
    assert prompt_cut(f"Q{first}", f"Q{second}")[0] == 1_000_001
