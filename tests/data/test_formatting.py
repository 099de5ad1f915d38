"""Choosing a formatter: many rows are asked, not the first; what is decided is said."""

import tomllib

import pytest
from pydantic import Field

from dpotrain.core.errors import DataError, RecipeError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter, describe
from dpotrain.data.formats.columns import map_columns
from dpotrain.data.formats.read_row import read_row
from dpotrain.plugin.api import DatasetFormatter, Recognition
from dpotrain_plugins.formatters import dpotrain_dataset_formatters
from dpotrain_plugins.formatters.standard import StandardFormatter

CATALOGUE = dpotrain_dataset_formatters()


class ListRows:
    def __init__(self, rows):
        self.rows = rows
        self.fingerprint = "list"
        self.columns = list(dict.fromkeys(key for row in rows for key in row))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


STANDARD = {"prompt": "q", "chosen": "a", "rejected": "b"}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "q"}],
    "chosen": {"from": "gpt", "value": "a"},
    "rejected": {"from": "gpt", "value": "b"},
}
HH = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}


def decide(rows, catalogue=CATALOGUE, chosen=None, columns=None):
    return choose_formatter(ListRows(rows), catalogue, chosen, columns or {})


def test_the_first_row_does_not_decide_for_all():
    odd = {"prompt": None, "chosen": None, "rejected": None}
    decision = decide([odd, STANDARD, *[SHAREGPT] * 50])
    assert decision.formatter.name == "sharegpt"
    assert decision.text == "data format: sharegpt (recognised in 50 of 52 rows sampled)"
    assert '"standard" 1' in decision.warning


def test_rows_are_looked_at_all_over_a_long_data_set():
    rows = [STANDARD] * 300 + [SHAREGPT] * 2700
    assert decide(rows).formatter.name == "sharegpt"


def test_rows_that_nobody_can_judge_do_not_count():
    decision = decide([{"prompt": None, "chosen": None, "rejected": None}] * 9 + [STANDARD])
    assert decision.text == "data format: standard (recognised in 1 of 10 rows sampled)"
    assert not decision.warning


def test_a_certain_formatter_wins_over_one_that_fits_a_few_rows_more():
    # implicit-prompt reads the HH rows too, and the one row that is no dialogue.
    rows = [HH] * 40 + [{"chosen": "Q\nyes", "rejected": "Q\nno"}]
    assert decide(rows).formatter.name == "hh"


def test_no_match_shows_columns_with_types_what_is_needed_and_the_remedy():
    with pytest.raises(DataError) as error:
        decide([{"query": "q", "best": [{"role": "assistant", "content": "a"}], "score": 1.5, "worst": None}])
    text = str(error.value)
    assert error.value.exit_code == 3
    assert "query: text" in text
    assert "best: list of 1: object with role, content" in text
    assert "score: number" in text
    assert "worst: nothing (None)" in text
    assert "data.format" in text
    assert "[data.columns]" in text
    for cls in CATALOGUE:
        assert f"  {cls.name}: " in text
    assert "q\n" not in text, "the data's own text is not shown"


class Twin(StandardFormatter):
    name = "twin"


def test_two_formatters_that_fit_equally_well_are_named():
    with pytest.raises(DataError, match='equally well: "standard" and "twin"') as error:
        decide([STANDARD], [StandardFormatter, Twin])
    assert 'data.format = "standard"' in str(error.value)


def test_the_recipes_own_formatter_is_not_questioned():
    chosen = StandardFormatter(StandardFormatter.Options())
    decision = decide([SHAREGPT], chosen=chosen)
    assert decision.formatter is chosen
    assert decision.text == "data format: standard (set by data.format)"


class Broken(DatasetFormatter):
    name = "broken"

    def recognises(self, row):
        raise KeyError("oops")

    def format(self, row):
        raise KeyError("oops")


def test_what_breaks_a_formatter_is_noted_with_the_row():
    with pytest.raises(KeyError) as judging:
        decide([STANDARD], [Broken, StandardFormatter])
    assert (
        "It was given row 0. For a row that it does not read, a formatter returns"
        in judging.value.__notes__[0]
    )
    with pytest.raises(KeyError) as formatting:
        read_row(Broken(Broken.Options()), STANDARD, 12)
    assert "It was given row 12. To drop a row" in formatting.value.__notes__[0]


class Demanding(DatasetFormatter):
    name = "demanding"

    class Options(DatasetFormatter.Options):
        field: str = Field(description="Which field.")

    def recognises(self, row):
        return Recognition.CERTAIN

    def format(self, row):
        raise UnusableRow("never")


def test_a_formatter_that_insists_on_options_has_no_part_in_auto():
    assert decide([STANDARD], [Demanding, StandardFormatter]).formatter.name == "standard"


def test_unusable_rows_pass_through_read_row():
    with pytest.raises(UnusableRow, match="chosen is missing"):
        read_row(StandardFormatter(StandardFormatter.Options()), {"prompt": "q", "rejected": "b"}, 0)


def test_mapped_columns_are_seen_under_their_canonical_names_only():
    rows = ListRows([{"question": "q", "win": "a", "lose": "b", "id": 1}])
    mapped = map_columns(rows, {"prompt": "question", "chosen": "win", "rejected": "lose"}, None, "train")
    assert mapped[0] == {"prompt": "q", "chosen": "a", "rejected": "b", "id": 1}
    assert mapped.columns == ["prompt", "chosen", "rejected", "id"]
    decision = choose_formatter(mapped, CATALOGUE, None, mapped.mapping)
    assert decision.formatter.name == "standard"
    assert decision.formatter.format(mapped[0]) == PreferencePair("q", "a", "b")


def test_columns_can_be_swapped():
    mapped = map_columns(ListRows([STANDARD]), {"chosen": "rejected", "rejected": "chosen"}, None, "train")
    assert mapped[0] == {"prompt": "q", "chosen": "b", "rejected": "a"}


def test_limit_takes_the_first_rows():
    assert len(map_columns(ListRows([STANDARD] * 5), {}, 3, "train")) == 3
    assert len(map_columns(ListRows([STANDARD] * 5), {}, 9, "train")) == 5


def test_a_mapped_column_that_is_not_there_names_the_nearest():
    with pytest.raises(DataError) as error:
        map_columns(ListRows([STANDARD]), {"prompt": "promt"}, None, "train")
    assert str(error.value) == (
        '[data.columns] prompt = "promt": split "train" has no such column; did you mean "prompt"?\n'
        "Its columns are: prompt, chosen, rejected."
    )


@pytest.mark.parametrize("chosen", [None, StandardFormatter(StandardFormatter.Options())])
def test_a_mapped_name_that_no_formatter_reads_is_refused(chosen):
    with pytest.raises(RecipeError) as error:
        decide([STANDARD], chosen=chosen, columns={"promt": "question"})
    assert error.value.exit_code == 2
    assert 'a column "promt"; did you mean "prompt"?' in str(error.value)


def test_a_mapped_name_that_the_decided_formatter_does_not_read_is_refused():
    with pytest.raises(RecipeError, match='formatter "standard" does not read a column "history"'):
        decide([STANDARD], columns={"history": "chat"})


def test_a_misspelt_number_of_a_pair_comes_with_the_nearest_one():
    with pytest.raises(RecipeError, match='a column "weigth"; did you mean "weight"') as error:
        decide([STANDARD], columns={"weigth": "votes"})
    assert "numbers of a pair: weight, margin, label_probability" in str(error.value)


def test_values_are_described_by_type_never_by_text():
    assert describe("secret") == "text"
    assert describe("") == "empty text"
    assert describe([]) == "list of 0"
    assert describe(["secret"]) == "list of 1: text"
    assert describe({"role": "secret"}) == "object with role"
    assert describe(3) == "whole number"


def test_columns_in_another_spelling_come_with_the_line_that_reads_them():
    rows = [{"Prompt": f"What is {n}?", "Chosen": "a number", " rejected ": "a word"} for n in range(3)]
    with pytest.raises(DataError) as caught:
        choose_formatter(ListRows(rows), CATALOGUE, None, {})
    line = '  columns = { prompt = "Prompt", chosen = "Chosen", rejected = " rejected " }'
    assert f"known by names in another spelling. [data] needs this line:\n{line}\n" in str(caught.value)
    mapping = tomllib.loads(line)["columns"]
    mapped = map_columns(ListRows(rows), mapping, None, "train")
    assert choose_formatter(mapped, CATALOGUE, None, mapping).formatter.name == "standard"


def test_columns_whose_other_spelling_would_not_be_read_either_get_no_line():
    with pytest.raises(DataError) as caught:
        choose_formatter(
            ListRows([{"Prompt": "What is it?", "best": "a", "worst": "b"}]), CATALOGUE, None, {}
        )
    assert "another spelling" not in str(caught.value)
