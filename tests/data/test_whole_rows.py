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
