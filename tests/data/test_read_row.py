"""Every column that belongs to a pair is read, or the row is refused by the column's name."""

import json

import pytest

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.columns import map_columns
from dpotrain.data.formats.read_row import read_row
from dpotrain.data.tokens.keys import prompt_key
from dpotrain.plugin.api import DatasetFormatter, Recognition
from dpotrain_plugins.formatters import dpotrain_dataset_formatters
from tests.data.test_formatting import ListRows, decide

FORMATTERS = {cls.name: cls(cls.Options()) for cls in dpotrain_dataset_formatters()}
ANSWERS = {"chosen": "It is seven.", "rejected": "No idea at all."}
ASKED, SAID, DENIED = (
    [{"role": role, "content": text}]
    for role, text in (("user", "How many?"), ("assistant", "It is seven."), ("assistant", "No idea at all."))
)
TALK = {"chosen": SAID, "rejected": DENIED}
TOOLS = [{"type": "function", "function": {"name": "count"}}]


@pytest.mark.parametrize(
    ("formatter", "row", "column"),
    [
        ("standard", {"prompt": "How many?", "system": "Be brief.", **ANSWERS}, "system"),
        ("standard", {"prompt": "How many?", "tools": TOOLS, **ANSWERS}, "tools"),
        ("standard", {"prompt": "How many?", "history": [["Hi", "Hello"]], **ANSWERS}, "history"),
        ("standard", {"prompt": "How many?", "input": "a box of eggs", **ANSWERS}, "input"),
        ("standard", {"prompt": "How many?", "input": "seven", **ANSWERS}, "input"),
        ("standard", {"prompt": "How many?", "input": "man", **ANSWERS}, "input"),
        ("implicit-prompt", {"chosen": "Q: x\nA: 1", "rejected": "Q: x\nA: 2", "system": "Be brief."}, "system"),
        ("conversational", {"prompt": ASKED, "system_prompt": "Be brief.", **TALK}, "system_prompt"),
        ("question", {"question": "How many?", "prompt": "of the eggs", **ANSWERS}, "prompt"),
        ("openai", {"input": {"messages": ASKED}, "preferred_output": SAID, "non_preferred_output": DENIED,
                    "system": "Be brief."}, "system"),
    ],
)  # fmt: skip
def test_a_column_of_the_pair_that_the_format_does_not_read_refuses_the_row(formatter, row, column):
    with pytest.raises(UnusableRow) as error:
        read_row(FORMATTERS[formatter], row, 0)
    assert str(error.value) == (
        f'column "{column}" is not read by format "{formatter}": map it in [data.columns], or leave it out with '
        f'data.ignore_columns = ["{column}"]'
    )
    assert len(str(error.value)) < 200, "reasons are cut there"
    left_out = map_columns(ListRows([row]), {}, None, "train", [column])
    assert column not in left_out.columns
    assert read_row(FORMATTERS[formatter], left_out[0], 0).pairs


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "How many?", "system": None, "tools": "[]", "history": [], "input": " ", **ANSWERS},
        {"prompt": "User: How  many?\nAssistant:", "question": "How many?", **ANSWERS},
        {"prompt": "How many?", "messages": [*ASKED, *SAID], **ANSWERS},
    ],
)
def test_a_column_that_holds_nothing_of_its_own_refuses_no_row(row):
    assert read_row(FORMATTERS["standard"], row, 0).pairs == (
        PreferencePair(row["prompt"], *ANSWERS.values()),
    )


def test_other_columns_with_text_are_named_and_numbers_are_not():
    row = {
        "prompt": "How many?",
        "source": "eggs",
        "score": 3,
        "tags": ["farm"],
        "empty": "",
        "mark": "--",
        **ANSWERS,
    }
    assert read_row(FORMATTERS["standard"], row, 0).unused == ("source", "tags")


class Undeclared(DatasetFormatter):
    name = "undeclared"

    def recognises(self, row):
        return Recognition.NO

    def format(self, row):
        return PreferencePair(dict(row)["prompt"], row["chosen"], row["rejected"])


def test_a_formatter_that_goes_through_the_whole_row_has_read_it():
    row = {"prompt": "How many?", "system": "Be brief.", "source": "eggs", **ANSWERS}
    assert read_row(Undeclared(Undeclared.Options()), row, 0).unused == ()


class Loose(Undeclared):
    def format(self, row):
        parts = [{"type": "text", "text": "How many?"}]
        return [
            PreferencePair([{"role": "user", "content": parts}], SAID, DENIED, numbers={"gap": 2.0}),
            PreferencePair([{"role": "user", "content": " "}], SAID, DENIED),
        ]


def test_pairs_of_any_formatter_are_normalised_and_each_is_checked():
    read = read_row(Loose(Loose.Options()), {}, 0)
    assert read.pairs == (PreferencePair(ASKED, SAID, DENIED, numbers={"gap": 2.0}),)
    assert read.refused == ("prompt is empty",)


# How auto decides


def test_some_rows_with_a_system_text_make_all_of_them_conversations():
    rows = [
        {"system": text, "prompt": f"Count {n} eggs.", **ANSWERS}
        for n, text in enumerate(["Be brief.", None, ""])
    ]
    decision = decide(rows)
    assert decision.text == "data format: question (recognised in 3 of 3 rows sampled)"
    prompts = [read_row(decision.formatter, row, 0).pairs[0].prompt for row in rows]
    assert [len(prompt) for prompt in prompts] == [2, 1, 1]


def test_columns_of_unknown_names_are_asked_for_and_not_guessed():
    rows = [
        {"question": "How many?", "better": f"There are {n}.", "worse": f"Maybe {n} of them."}
        for n in range(3)
    ]
    with pytest.raises(DataError) as error:
        decide(rows)
    assert "map the data's columns in [data.columns]: which of question, better, worse is chosen" in str(
        error.value
    )


@pytest.mark.parametrize("column", ["problem", "Question", "text", "dialogue"])
@pytest.mark.parametrize(
    "opening", ["The number of them is", "Sure!\nThe number is", "Answer: the number is"]
)
def test_words_that_answers_share_are_no_prompt_where_a_column_may_be_one(column, opening):
    row = {column: "How many eggs are there?", "chosen": f"{opening} seven.", "rejected": f"{opening} two."}
    with pytest.raises(DataError) as error:
        decide([row])
    assert f'map the data\'s columns in [data.columns], as in prompt = "{column}"' in str(error.value)
    mapped = map_columns(ListRows([row]), {"prompt": column}, None, "train")
    assert (
        choose_formatter(mapped, dpotrain_dataset_formatters(), None, mapped.mapping).formatter.name
        == "standard"
    )


def test_words_that_answers_share_on_one_line_are_no_prompt_unless_the_recipe_says_so():
    row = {"chosen": "The number is seven.", "rejected": "The number is two."}
    with pytest.raises(DataError, match="No formatter recognises"):
        decide([row])
    assert read_row(FORMATTERS["implicit-prompt"], row, 0).pairs[0].prompt == "The number is"


def test_a_prompt_format_shows_the_prompt_whatever_other_columns_there_are():
    text = "### Instruction:\nCount them\n\n### Response:\n"
    row = {"chosen": f"{text}seven", "rejected": f"{text}two", "origin": "a set of eggs"}
    decision = decide([row])
    assert decision.formatter.name == "implicit-prompt"
    assert read_row(decision.formatter, row, 0).unused == ("origin",)


def test_data_of_two_formats_is_refused_with_a_row_of_each():
    rows = [{"prompt": "How many?", **ANSWERS}] * 6 + [{"prompt": ASKED, **TALK}] * 3
    with pytest.raises(DataError) as error:
        decide(rows)
    assert str(error.value) == (
        'No formatter fits the data: "standard" fits 6 of 9 rows of a known shape ("conversational" 3).\n'
        '  row 0 is "standard": object with prompt, chosen, rejected\n'
        '  row 6 is "conversational": object with prompt, chosen, rejected\n'
        'Set data.format = "standard" to drop what it does not read, or give each format a file of its own.'
    )


def test_data_most_of_whose_rows_have_a_column_that_nobody_reads_is_refused():
    rows = [{"prompt": "How many?", "input": "eggs", **ANSWERS}] * 3 + [{"prompt": "How many?", **ANSWERS}]
    with pytest.raises(DataError) as error:
        decide(rows)
    assert 'No formatter fits the data: "standard" fits 1 of 4 rows of a known shape' in str(error.value)
    assert 'standard: column "input" is not read by format "standard"' in str(error.value)


def test_where_no_formatter_reads_all_of_a_row_each_says_why():
    with pytest.raises(DataError) as error:
        decide([{"question": "How many?", "system_prompt": "Be brief.", **ANSWERS}])
    assert 'question: column "system_prompt" is not read by format "question"' in str(error.value)


@pytest.mark.parametrize("stored", [json.dumps, dict])
def test_a_pair_stored_in_one_column_is_its_columns(stored):
    rows = ListRows([{"id": 7, "record": stored({"prompt": ASKED, "system": "Be brief.", **TALK})}])
    mapped = map_columns(rows, {}, None, "train")
    assert mapped[0] == {"id": 7, "prompt": ASKED, "system": "Be brief.", **TALK}
    assert (
        choose_formatter(mapped, dpotrain_dataset_formatters(), None, {}).formatter.name == "conversational"
    )


@pytest.mark.parametrize("stored", [json.dumps, dict])
def test_columns_of_a_pair_that_is_stored_in_one_column_are_mapped_and_left_out(stored):
    rows = ListRows([{"record": stored({"task": "How many?", "system": "Be brief.", **ANSWERS})}])
    mapped = map_columns(rows, {"prompt": "task"}, None, "train", ["system"])
    assert mapped[0] == {"prompt": "How many?", **ANSWERS}
    assert map_columns(rows, {}, None, "train", ["record"])[0] == {}


def test_a_pair_stored_in_one_column_hides_no_other_column():
    stored = {"prompt": "How many?", **ANSWERS}
    rows = ListRows([{"prompt": "And of those?", "record": stored}])
    with pytest.raises(DataError, match="No formatter recognises the data"):
        decide(list(rows))
    same = {"prompt": "How many?", "record": stored}
    assert map_columns(ListRows([same]), {}, None, "train")[0] == stored


def test_what_a_message_has_beside_what_is_said_makes_no_other_prompt():
    (first,) = ASKED
    assert prompt_key([{**first, "id": 1}]) == prompt_key([{**first, "id": 2}]) == prompt_key(ASKED)
    assert prompt_key([{**first, "name": "Ann"}]) != prompt_key(ASKED)
