"""The prompt stands in a pair once, and is the same for both answers, however the row repeats it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain_plugins.formatters import dpotrain_dataset_formatters
from dpotrain_plugins.formatters.conversations import pair_of
from dpotrain_plugins.formatters.texts import without_repeated_prompt
from tests.plugins.test_formatters import assistant, system, turn, user

FORMATTERS = {cls.name: cls(cls.Options()) for cls in dpotrain_dataset_formatters()}
Q, R, A, B, GOLD = (
    user("Which way?"),
    user("And then?"),
    assistant("Left."),
    assistant("Right."),
    assistant("Up."),
)
S = system("Be brief.")
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
TOLD = {"role": "tool", "content": "north"}


def read(prompt, chosen, rejected, **columns):
    return pair_of(columns, prompt, chosen, rejected)


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "turns"),
    [
        ([Q], [A], [B], [Q]),
        ([Q], "Left.", "Right.", [Q]),
        ([Q], [Q, A], [Q, B], [Q]),
        ([Q], [Q, A], [B], [Q]),
        ([user("Which way? ")], [Q, A], [Q, B], [user("Which way? ")]),
        ([user("Which\r\nway?")], [user("Which\nway?"), A], [Q, B], [user("Which\r\nway?")]),
        ([{**Q, "id": 7}], [Q, A], [{**Q, "id": 9}, B], [{**Q, "id": 7}]),
        ([Q, GOLD, R], [R, A], [R, B], [Q, GOLD, R]),
        ([Q, GOLD, R], [Q, GOLD, R, A], [R, B], [Q, GOLD, R]),
        ([R], [Q, GOLD, R, A], [Q, GOLD, R, B], [Q, GOLD, R]),
        ([Q, GOLD], [Q, A], [Q, B], [Q]),
        ([Q, GOLD], [R, A], [R, B], [Q, GOLD, R]),
        ([Q, CALL], [TOLD, A], [TOLD, B], [Q, CALL, TOLD]),
        (None, [Q, A], [{**Q, "id": 1}, B], [Q]),
    ],
)
def test_what_answers_repeat_of_the_prompt_stands_in_it_once(prompt, chosen, rejected, turns):
    assert read(prompt, chosen, rejected) == PreferencePair(turns, [A], [B], [])


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ([Q, GOLD], [A], [B], "the prompt ends with an assistant turn"),
        ([Q, GOLD], "Left.", "Right.", "the prompt ends with an assistant turn"),
        ([Q], [R, A], [R, B], "the answers begin with turns that are not the prompt's"),
        ([Q], [R, A], [B], "the answers begin with turns that are not the prompt's"),
        (None, [Q, A], [R, B], "chosen and rejected share no leading turn"),
        (None, [Q, GOLD, R, A], [Q, GOLD, Q, B], "chosen and rejected answer different prompts"),
        (None, [Q, A], [Q, A], "chosen and rejected are identical"),
        ([Q], "Which way? Left.", "Right.", None),
        (
            [user("Tell me which way")],
            "Tell me which way: left",
            "Right.",
            "only one of the answers begins with the",
        ),
        ([Q], [S], [B], "an answer has no turn but the system's"),
    ],
)
def test_a_pair_whose_prompt_is_not_certain_is_refused(prompt, chosen, rejected, reason):
    if reason is None:  # two words are what an answer may begin with
        assert read(prompt, chosen, rejected).chosen == [assistant(chosen)]
        return
    with pytest.raises(UnusableRow, match=f"^{reason}"):
        read(prompt, chosen, rejected)


@pytest.mark.parametrize(
    "column",
    ["Be brief.", "Be  brief.\n", S, [S], ["Be brief."], {"role": "developer", "content": "Be brief."},
     '[{"role": "system", "content": "Be brief."}]'],
)  # fmt: skip
@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [([Q], [A], [B]), ([Q], [S, Q, A], [S, Q, B]), ([S, Q], [Q, A], [S, Q, B]), (None, [S, Q, A], [Q, B])],
)
def test_the_system_text_stands_once_wherever_the_row_has_it(column, prompt, chosen, rejected):
    pair = read(prompt, chosen, rejected, system=column)
    assert len(pair.prompt) == 2
    assert pair.prompt[0]["content"].split() == ["Be", "brief."]
    assert (pair.prompt[1], pair.chosen, pair.rejected) == (Q, [A], [B])


@pytest.mark.parametrize(
    ("columns", "prompt", "chosen", "rejected", "reason"),
    [
        ({"system": "Be kind."}, [S, Q], [A], [B], "the row has different system texts"),
        ({}, None, [S, Q, A], [system("Be kind."), Q, B], "the row has different system texts"),
        ({}, None, [S, Q, A], [Q, B], "only one of chosen and rejected has a system turn"),
        ({"system": 7}, [Q], [A], [B], "system is neither text nor a system message"),
        ({"system": {"text": "Be brief."}}, [Q], [A], [B], "system is neither text nor a system message"),
        ({"system": ["Be", "brief."]}, [Q], [A], [B], "system is neither text nor a system message"),
        ({"system": [Q]}, [Q], [A], [B], "system holds a turn of another speaker"),
        ({"history": "we spoke"}, [Q], [A], [B], "history is neither messages nor a list of"),
    ],
)
def test_a_system_text_that_is_not_certain_is_refused(columns, prompt, chosen, rejected, reason):
    with pytest.raises(UnusableRow, match=f"^{reason}"):
        read(prompt, chosen, rejected, **columns)


@pytest.mark.parametrize(
    "history",
    ['[["Which way?", "Up."]]', [["Which way?", "Up."]], [Q, GOLD], [turn("human", "Which way?"), GOLD]],
)
@pytest.mark.parametrize("prompt", [[R], [Q, GOLD, R]])
def test_history_stands_before_the_prompt_once(history, prompt):
    assert read(prompt, [A], [B], history=history).prompt == [Q, GOLD, R]


def test_a_prompt_of_assistant_turns_alone_is_no_answer_that_may_be_left_out():
    with pytest.raises(UnusableRow, match=r"^the prompt holds assistant turns alone$"):
        read([GOLD], [Q, A, R, A], [Q, A, R, B], history=[Q, A])


@pytest.mark.parametrize("prompt", [[Q], None])
def test_history_that_holds_the_question_with_its_answer_is_refused(prompt):
    with pytest.raises(UnusableRow, match=r"^history holds the question with its answer$"):
        read(prompt, [Q, A], [Q, B], history=[Q, A])
    with pytest.raises(UnusableRow, match=r"^history holds the question with its answer$"):
        read(prompt, [Q, A, R, GOLD], [Q, B], history=[Q, A])
    asked_again = read([Q], [A], [B], history=[Q, GOLD])
    assert asked_again.prompt == [Q, GOLD, Q]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "pair"),
    [
        ("Name a bird now.", "Name a bird now. Heron", "Name a bird now. Trout",
         ("Name a bird now.", " Heron", " Trout")),
        ("Name a bird now. ", "Name a bird now.\nHeron", "Name  a bird now.\nTrout",
         ("Name a bird now. ", "\nHeron", "\nTrout")),
        ("Q: a bird\nA:", "Q: a bird\nA:Heron", "Q: a bird\nA:Trout", ("Q: a bird\nA:", "Heron", "Trout")),
        ("Name a bird", "Name a birdhouse", "Name a birdbath", ("Name a bird", "Name a birdhouse", "Name a birdbath")),
        ("Hello", "Hello there", "Hello you", ("Hello", "Hello there", "Hello you")),
    ],
)  # fmt: skip
def test_text_answers_that_begin_with_the_prompt_are_told_by_its_words(prompt, chosen, rejected, pair):
    assert without_repeated_prompt(prompt, chosen, rejected) == pair


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("Name a bird now. Heron", "Trout", "only one of the answers begins with the prompt"),
        ("Name a bird now.", "Name a bird now. Trout", "an answer is nothing but the prompt"),
    ],
)
def test_text_answers_of_which_one_repeats_the_prompt_are_refused(chosen, rejected, reason):
    with pytest.raises(UnusableRow, match=f"^{reason}$"):
        without_repeated_prompt("Name a bird now.", chosen, rejected)


SPACES = st.lists(st.sampled_from([" ", "\n", "  ", "\r\n"]), min_size=2, max_size=2)
WORDS = st.lists(st.sampled_from(["Name", "a", "bird", "now."]), min_size=3, max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    words=WORDS,
    first=st.text(max_size=6),
    second=st.text(max_size=6),
    spaces=SPACES,
)
def test_a_repeated_prompt_comes_off_both_answers_whatever_the_white_space(words, first, second, spaces):
    first, second = f"{spaces[0]}1{first}", f"{spaces[1]}2{second}"
    chosen, rejected = spaces[0].join(words) + first, spaces[1].join(words) + second
    prompt, *answers = without_repeated_prompt(" ".join(words), chosen, rejected)
    assert (prompt.split(), answers) == (words, [first, second])


# Several answers with scores


def ranked(row, **options):
    cls = type(FORMATTERS["ranked"])
    pairs = cls(cls.Options(**options)).format(row)
    return [
        (pair.chosen[0]["content"], pair.rejected[0]["content"], pair.numbers["score_gap"]) for pair in pairs
    ]


NECTAR = {
    "prompt": "\n\nHuman: Which way?\n\nAssistant: ",
    "answers": [{"answer": text, "rank": rank} for text, rank in (("b", 2.0), ("a", 1.0), ("c", 3.0))],
}
ULTRA = {
    "instruction": "Which way?",
    "completions": [
        {"response": text, "overall_score": score, "rating": 9 - score}
        for text, score in (("b", 2), ("a", 9), ("c", 2))
    ],
}


def test_of_ranked_answers_the_best_stands_against_the_worst():
    assert ranked(NECTAR) == [("a", "c", 2.0)]
    assert ranked(ULTRA) == [("a", "c", 7.0)]
    assert (
        FORMATTERS["ranked"].format(NECTAR)[0].prompt == FORMATTERS["ranked"].format(ULTRA)[0].prompt == [Q]
    )


def test_all_pairs_leave_out_answers_of_equal_score():
    assert ranked(NECTAR, pairs="all") == [("a", "b", 1.0), ("a", "c", 2.0), ("b", "c", 1.0)]
    assert ranked(ULTRA, pairs="all") == [("a", "b", 7.0), ("a", "c", 7.0)]
    assert ranked(ULTRA, score="rating") == [("b", "a", 7.0)]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([{"answer": "a", "rank": 1}], "there is only one answer"),
        ([{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1}], "all answers have the same score"),
        ([{"answer": "a", "rank": 1}, {"answer": "b", "rank": "N/A"}], "rank of an answer is not a number"),
        ([{"answer": "a"}, {"answer": "b", "rank": 1}], "answers has no text and score for every answer"),
        (
            [{"answer": "a", "text": "c", "rank": 1}, {"answer": "b", "rank": 2}],
            "an answer has several texts",
        ),
    ],
)
def test_ranked_answers_without_a_preference_are_refused(answers, reason):
    with pytest.raises(UnusableRow, match=f"^{reason}$"):
        FORMATTERS["ranked"].format({"prompt": "Which way?", "answers": answers})
