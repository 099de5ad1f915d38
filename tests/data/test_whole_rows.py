"""Rows of which a part was once lost, read twice or taken for something else."""

import json

import pytest

from dpotrain.core.pair import UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.read_row import read_row
from dpotrain_plugins.formatters import dpotrain_dataset_formatters

CATALOGUE = dpotrain_dataset_formatters()
FORMATTERS = {cls.name: cls(cls.Options()) for cls in CATALOGUE}
ANSWERS = {"chosen": "Yes, it does.", "rejected": "No, never."}


class Rows(list):
    fingerprint = ""
    columns: list[str] = []  # noqa: RUF012


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(row, name=None):
    """Return the row's one pair, by the named formatter or the one that ``auto`` chooses."""
    formatter = FORMATTERS[name] if name else choose_formatter(Rows([row]), CATALOGUE, None, {}).formatter
    [pair] = read_row(formatter, row, 0).pairs
    return pair


# A column that nothing reads


@pytest.mark.parametrize("name", ["input", "Input", "system", "query"])
def test_words_of_an_answer_do_not_stand_in_for_a_column_that_is_not_read(name):
    row = {"prompt": "Repeat after me.", name: "the river", "chosen": "the river", "rejected": "a river"}
    with pytest.raises(UnusableRow, match=f'column "{name}" is not read'):
        read(row, "standard")


def test_a_part_of_a_word_does_not_stand_in_for_a_column_that_is_not_read():
    with pytest.raises(UnusableRow, match='column "system" is not read'):
        read({"prompt": "Is another one there?", "system": "no", **ANSWERS}, "standard")
    assert read({"prompt": "Q: what? A:", "question": "what?", **ANSWERS}, "standard").prompt == "Q: what? A:"


def test_a_conversation_in_another_form_is_not_a_column_that_is_lost():
    def call(arguments):
        return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    opening = [user("How far?"), call({"to": "Bonn"}), {"role": "tool", "content": "7"}]
    row = {
        "prompt": "How far?",
        "messages": json.dumps([opening[0], call('{"to": "Bonn"}'), opening[2], assistant("Seven.")]),
        "chosen": [*opening, assistant("Seven.")],
        "rejected": [*opening, assistant("Far.")],
    }
    assert read(row).chosen == [assistant("Seven.")]


# Dialogues in one string

DIALOGUES = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant: Yes.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant: No.",
}
TURNS = [user("Hi"), assistant("Hello"), user("Does it rain?")]


@pytest.mark.parametrize(
    "question",
    [
        {"prompt": "Does it rain?"},
        {"prompt": "Hi"},
        {"prompt": "\n\nHuman: Does it rain?"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant:"},
        {"question": "Does it rain?"},
        {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "Does it rain?"}]},
    ],
)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_question_beside_dialogues_stands_once(question, system):
    pair = read({**question, **DIALOGUES, "system": system})
    assert pair.prompt == [*([{"role": "system", "content": system}] if system else []), *TURNS]
    assert (pair.chosen, pair.rejected) == ([assistant("Yes.")], [assistant("No.")])


def test_another_question_than_the_dialogues_is_refused():
    with pytest.raises(UnusableRow, match="prompt is none of the turns"):
        read({"prompt": "Does it snow?", **DIALOGUES})


@pytest.mark.parametrize("said", ["Assistant: ", "\n\nAssistant: "])
def test_a_dialogue_may_stand_in_two_columns(said):
    row = {"prompt": "\n\nHuman: Does it rain?\n\n", "chosen": f"{said}Yes.", "rejected": f"{said}No."}
    pair = read(row)
    assert pair.prompt == [user("Does it rain?")]
    assert (pair.chosen, pair.rejected) == ([assistant("Yes.")], [assistant("No.")])


def test_a_dialogue_beside_a_system_text_is_read_as_a_dialogue():
    row = {"system": "Be brief.", "prompt": "\n\nHuman: Does it rain?\n\nAssistant:", **ANSWERS}
    pair = read(row)
    assert [turn["content"] for turn in pair.prompt] == ["Be brief.", "Does it rain?"]


def test_an_answer_wrapped_in_an_object_breaks_no_formatter():
    row = {"chosen": "Q: why?\nSo.", "rejected": {"messages": "Q: why?\nNo."}}
    assert read(row).prompt == "Q: why?\n"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_answers_that_are_json_of_json_are_read_as_the_messages_that_they_are(times):
    chosen, rejected = [assistant("Yes.")], [assistant("No.")]
    for _ in range(times):
        chosen, rejected = json.dumps(chosen), json.dumps(rejected)
    pair = read({"prompt": "Does it rain?", "chosen": chosen, "rejected": rejected})
    assert (pair.prompt, pair.chosen) == ([user("Does it rain?")], [assistant("Yes.")])


def test_a_dialogue_beside_an_answer_that_is_none_is_refused():
    row = {
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "chosen": " Yes.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: No.",
    }
    with pytest.raises(UnusableRow, match="only one of the answers is a dialogue"):
        read(row)
