"""The prompt inside both answers: no answer loses text, none becomes empty, no word is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain_plugins.formatters.implicit import ImplicitPromptFormatter, prompt_cut


def split(chosen: str, rejected: str, marker: str | None = None):
    options = ImplicitPromptFormatter.Options(answer_marker=marker)
    pair = ImplicitPromptFormatter(options).format({"chosen": chosen, "rejected": rejected})
    return pair.prompt, pair.chosen, pair.rejected


def test_one_answer_a_prefix_of_the_other_keeps_both_answers():
    assert split("Q?\nYes", "Q?\nYes, and more") == ("Q?\n", "Yes", "Yes, and more")


def test_answers_that_begin_alike_keep_their_beginnings():
    assert split("Q?\nSure, here is A", "Q?\nSure, here is B") == (
        "Q?\n",
        "Sure, here is A",
        "Sure, here is B",
    )


def test_a_word_is_never_cut():
    assert split("Q? Yesterday", "Q? Yes") == ("Q?", " Yesterday", " Yes")
    assert split("the cat", "the cab") == ("the", " cat", " cab")


@pytest.mark.parametrize(
    "opening",
    [
        "Below is a task.\n\n### Instruction:\nadd\n\n### Response:\n",
        "<|im_start|>user\nadd<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] add [/INST]",
        "USER: add ASSISTANT:",
        "<start_of_turn>user\nadd<end_of_turn>\n<start_of_turn>model\n",
        "\n\nHuman: add\n\nAssistant:",
        "Q: add\nA:",
    ],
)
def test_known_prompt_formats_end_where_the_assistant_speaks(opening):
    answers = "First,\nwe add. The sum is 3.", "First,\nwe add. The sum is 4."
    assert split(opening + answers[0], opening + answers[1]) == (opening, *answers)


def test_the_users_own_marker_decides():
    chosen, rejected = "q => the\nsum is 3", "q => the\nsum is 4"
    assert split(chosen, rejected, "=> ") == ("q => ", "the\nsum is 3", "the\nsum is 4")
    with pytest.raises(UnusableRow, match="share no answer_marker"):
        split(chosen, rejected, "##")


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("yes", "no"), ("same", "samba"), ("", "x"), ("same", "same")]
)
def test_texts_without_a_shared_prompt_are_dropped(chosen, rejected):
    with pytest.raises(UnusableRow):
        split(chosen, rejected)


TEXT = st.text(alphabet="ab \n#:A", max_size=14)


@settings(max_examples=300, deadline=None)
@given(shared=TEXT, first=TEXT, second=TEXT)
def test_prompt_and_answer_are_always_the_whole_text_and_neither_is_blank(shared, first, second):
    chosen, rejected = shared + first, shared + second
    try:
        cut, _ = prompt_cut(chosen, rejected)
    except UnusableRow:
        return
    assert chosen[:cut] == rejected[:cut]
    for part in (chosen[:cut], chosen[cut:], rejected[cut:]):
        assert part.strip()
    for text in (chosen, rejected):
        assert not (text[cut - 1].isalpha() and text[cut].isalpha()), "a word is cut"


TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from("xy")}
)
TURNS = st.lists(TURN, min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(shared=TURNS, first=TURNS, second=TURNS)
def test_the_prompt_of_two_conversations_is_what_they_share_and_the_assistant_answers(shared, first, second):
    chosen, rejected = shared + first, shared + second
    formatter = ImplicitPromptFormatter(ImplicitPromptFormatter.Options())
    together = next(
        (place for place, two in enumerate(zip(chosen, rejected, strict=False)) if two[0] != two[1]), 99
    )
    cut = min(together, len(chosen) - 1, len(rejected) - 1)
    answered = [messages[cut]["role"] == "assistant" for messages in (chosen, rejected)]
    try:
        pair = formatter.format({"chosen": chosen, "rejected": rejected})
    except UnusableRow:
        assert chosen == rejected or not all(answered) or chosen[cut - 1]["role"] == "assistant"
        return
    assert pair == PreferencePair(chosen[:cut], chosen[cut:], rejected[cut:], [])
    assert all(answered)
    assert pair.prompt[-1]["role"] == "user"
