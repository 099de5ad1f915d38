"""A row as the model sees it: its pieces say what each token is, and their texts are what the tokens decode to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpotrain.core.errors import RecipeError
from dpotrain.data.inspection.row_view import row_view, text_view
from dpotrain_plugins.formatters.ranked import RankedFormatter
from tests.data.inspection.inspecting import clean, reader
from tests.data.tokenizers_for_tests import CHATML, THINKING, assistant, bpe, user

TOKENIZER = bpe(template=CHATML)


def text(view) -> str:
    return "".join(piece.text for piece in view.pieces)


@given(st.data(), st.text(max_size=40), st.text(max_size=40), st.integers(0, 80))
def test_the_pieces_hold_every_token_once_in_order_and_join_to_the_decoded_text(data, before, answer, most):
    ids = [
        TOKENIZER(f"<|im_start|>{part}<|im_end|>", add_special_tokens=False)["input_ids"]
        for part in (before, answer)
    ]
    scored = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids[1]), max_size=len(ids[1]))), bool)
    gone = range(most, most + data.draw(st.integers(0, 40)))
    prompt = text_view(TOKENIZER, np.array(ids[0], np.int32), None, [], gone)
    view = text_view(TOKENIZER, np.array(ids[1], np.int32), scored, ids[0], gone)
    assert [token for piece in view.pieces for token in piece.tokens] == ids[1]
    special = set(TOKENIZER.all_special_ids)
    place = 0
    for piece in view.pieces:
        for token in piece.tokens:
            cut = place in gone
            assert piece.part == ("cut" if cut else "scored" if scored[place] else "unscored")
            assert piece.special == (token in special)
            place += 1
    whole = TOKENIZER.decode([*ids[0], *ids[1]], clean_up_tokenization_spaces=False)
    if "\ufffd" not in text(prompt) + text(view):  # a character whose bytes are of two parts
        assert text(prompt) + text(view) == whole


def test_a_kept_row_shows_its_template_and_which_tokens_are_scored():
    rows = [{"prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}]
    view = row_view(reader(rows, TOKENIZER), "train", 0)
    (pair,) = view.pairs
    assert (view.dropped, pair.dropped, pair.boundary_moved) == ((), "", False)
    assert text(pair.prompt) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text(pair.chosen) == "yes<|im_end|>\n"
    assert [piece.text for piece in pair.prompt.pieces if piece.special] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]
    assert pair.chosen.count("scored") == pair.chosen.count()
    assert pair.prompt.count("prompt") == pair.prompt.count()


def test_a_quoted_control_token_is_no_special_piece_and_is_noted():
    rows = [{"prompt": [user("hi")], "chosen": [assistant("say <|im_end|>")], "rejected": [assistant("no")]}]
    (pair,) = row_view(reader(rows, TOKENIZER), "train", 0).pairs
    assert [piece.text for piece in pair.chosen.pieces] == ["say <|im_end|>", "<|im_end|>", "\n"]
    assert [piece.special for piece in pair.chosen.pieces] == [False, True, False]
    assert pair.notes == ("the control token <|im_end|> in a message is tokenized as text",)


def test_a_users_turn_inside_an_answer_is_not_scored():
    answer = [assistant("one"), user("and?"), assistant("two")]
    rows = [{"prompt": [user("hi")], "chosen": answer, "rejected": [assistant("no")]}]
    (pair,) = row_view(reader(rows, TOKENIZER), "train", 0).pairs
    unscored = "".join(piece.text for piece in pair.chosen.pieces if piece.part == "unscored")
    assert "user\nand?" in unscored
    scored = "".join(piece.text for piece in pair.chosen.pieces if piece.part == "scored")
    assert "one" in scored
    assert "two" in scored
    assert "and?" not in scored


def test_what_max_length_cuts_is_shown_as_cut():
    rows = [{"prompt": "hello", "chosen": " yes " * 30, "rejected": " no"}]
    made = reader(rows, max_length=20)
    (pair,) = row_view(made, "train", 0).pairs
    kept = made.prepare().train[0]
    assert pair.chosen.count("scored") == len(kept.chosen) == 20 - len(kept.prompt)
    assert pair.chosen.count("cut") == pair.chosen.count() - len(kept.chosen) > 0
    assert pair.rejected.count("cut") == 0


def test_a_row_that_is_dropped_after_it_was_tokenized_is_shown_with_the_reason():
    rows = [{"prompt": "long " * 30, "chosen": " yes", "rejected": " no"}]
    (pair,) = row_view(reader(rows, max_length=10), "train", 0).pairs
    assert pair.dropped == "prompt fills max_length"
    assert pair.prompt.count("prompt") == 10
    assert pair.chosen.count("cut") == pair.chosen.count()


def test_a_row_that_cannot_be_read_shows_its_columns_with_the_reason():
    row = {"prompt": "q", "chosen": "", "rejected": "no"}
    view = row_view(reader([*clean(5), row]), "train", 5)
    assert (view.dropped, view.pairs) == (("chosen is empty",), ())
    assert dict(view.columns) == row


def test_a_row_of_ranked_answers_shows_every_pair():
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate(("best", "good", "best"))]
    made = reader(
        [{"prompt": "hi", "answers": answers}],
        TOKENIZER,
        formatter=RankedFormatter(RankedFormatter.Options(pairs="all")),
    )
    view = row_view(made, "train", 0)
    shown = [
        tuple(text(each).removesuffix("<|im_end|>\n") for each in (pair.chosen, pair.rejected))
        for pair in view.pairs
    ]
    assert shown == [("best", "good"), ("good", "best")]
    assert view.dropped == ("chosen and rejected are identical",)


def test_a_moved_boundary_is_said():
    rows = [{"prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}]
    (pair,) = row_view(reader(rows, bpe(template=THINKING)), "train", 0).pairs
    assert pair.boundary_moved


@pytest.mark.parametrize("row", [-1, 5, 1000])
def test_a_row_that_is_not_there_is_refused_with_how_many_there_are(row):
    with pytest.raises(RecipeError, match=rf'no row {row}: split "train" has 5 rows'):
        row_view(reader(clean(5)), "train", row)


def test_rows_beyond_the_limit_are_not_there():
    with pytest.raises(RecipeError, match="has 3 rows"):
        row_view(reader(clean(5), limit=3), "train", 3)
