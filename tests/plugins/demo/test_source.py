"""The ``demo`` source: deterministic rows with known preferences, and train and test that share no request."""

import pytest
from pydantic import ValidationError

from dpotrain_plugins.demo.grammar import requests, style
from dpotrain_plugins.demo.source import DemoSource


def _source(**options) -> DemoSource:
    return DemoSource(DemoSource.Options(**options))


def _texts(rows, column: str) -> list[str]:
    return [rows[index][column][0]["content"] for index in range(len(rows))]


def test_rows_are_conversations_with_the_preferred_style_chosen():
    rows = _source(pairs=50).load("train")
    assert (len(rows), rows.columns) == (50, ["prompt", "chosen", "rejected"])
    assert {style(text) for text in _texts(rows, "chosen")} == {"courteous"}
    assert {style(text) for text in _texts(rows, "rejected")} == {"curt"}
    assert [message["role"] for column in rows.columns for message in rows[0][column]] == [
        "user",
        "assistant",
        "assistant",
    ]


def test_prefer_turns_the_preference_round_and_nothing_else():
    courteous, curt = _source(pairs=50).load("train"), _source(pairs=50, prefer="curt").load("train")
    assert _texts(courteous, "prompt") == _texts(curt, "prompt")
    assert _texts(courteous, "chosen") == _texts(curt, "rejected")
    assert _texts(courteous, "rejected") == _texts(curt, "chosen")
    assert courteous.fingerprint != curt.fingerprint


def test_both_replies_answer_the_request():
    rows = _source(pairs=50, seed=4).load("train")
    by_text = {text: index for index, text in enumerate(_texts(rows, "prompt"))}
    seen = 0
    for request in requests(4, held_out=False):
        row = rows[by_text[request.text]]
        assert request.is_answered_by(row["chosen"][0]["content"])
        assert request.is_answered_by(row["rejected"][0]["content"])
        if (seen := seen + 1) == 50:
            break


def test_the_same_options_give_the_same_rows_and_fingerprint():
    first, second = _source(seed=3).load("train"), _source(seed=3).load("train")
    assert [first[i] for i in range(len(first))] == [second[i] for i in range(len(second))]
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != _source(seed=4).load("train").fingerprint
    assert first.fingerprint != _source(seed=3, pairs=399).load("train").fingerprint


def test_train_and_test_share_no_request_whatever_the_seeds():
    trained = set(_texts(_source(pairs=3000, seed=0).load("train"), "prompt"))
    for seed in (0, 1, 7):
        tested = _texts(_source(pairs=1000, seed=seed).load("test"), "prompt")
        assert len(set(tested)) == 1000
        assert not trained & set(tested)


def test_a_row_beyond_the_end_is_an_index_error():
    rows = _source(pairs=5).load("train")
    with pytest.raises(IndexError):
        rows[5]


@pytest.mark.parametrize(
    "options",
    [{"pairs": 0}, {"pairs": 10**6}, {"seed": -1}, {"prefer": "rude"}, {"samples": -1}, {"rows": 5}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError) as caught:
        _source(**options)
    assert caught.value.errors()[0]["loc"] == tuple(options)
