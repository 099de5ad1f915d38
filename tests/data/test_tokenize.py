"""Pairs to tokens: boundaries, special tokens, cutting, and whose words are scored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.check_pair import check_pair
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairResult, PairTokenizer, common_prefix
from dpotrain.data.tokens.tokenized import TokenizedPair
from tests.data.tokenizers_for_tests import (
    CHATML,
    LLAMA2,
    MARKS_THE_LAST,
    STRIPS_THINKING,
    THINKING,
    assistant,
    bpe,
    user,
)

PLAIN = PreferencePair("What is the capital of France?", " Paris.", " A dog.")
CHAT = PreferencePair([user("Tell me a story")], [assistant("Once upon a time")], [assistant("a cat")])


def tokenize(pair: PreferencePair, tokenizer, max_length: int = 1000) -> PairResult:
    [result] = PairTokenizer(tokenizer, Limits(max_length))([(7, pair)])
    return result


def kept(pair: PreferencePair, tokenizer, max_length: int = 1000) -> TokenizedPair:
    result = tokenize(pair, tokenizer, max_length)
    assert result.pair is not None, result.reason
    return result.pair


def scored_text(tokenizer, ids, flags) -> str:
    return tokenizer.decode(ids[flags])


def test_conversation_is_the_templates_own_tokens_prompt_with_generation_prompt():
    tokenizer = bpe(template=CHATML)
    pair = kept(CHAT, tokenizer)
    options = {"tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(CHAT.prompt, add_generation_prompt=True, **options)
    for answer, ids, flags in (
        (CHAT.chosen, pair.chosen, pair.chosen_scored),
        (CHAT.rejected, pair.rejected, pair.rejected_scored),
    ):
        full = tokenizer.apply_chat_template([*CHAT.prompt, *answer], **options)
        assert [*prompt, *ids.tolist()] == full
        assert flags.all()
    assert pair.prompt.tolist() == prompt
    assert pair.row == 7
    assert pair.prompt.dtype == pair.chosen.dtype == np.int32


@pytest.mark.parametrize(
    ("pair", "template"),
    [(CHAT, LLAMA2), (PreferencePair("<s>What is", " Paris</s>", " a dog</s>"), None)],
    ids=["by the template", "in plain text"],
)
def test_a_bos_and_an_eos_that_are_there_already_are_not_doubled(pair, template):
    tokenizer = bpe(bos=True, adds="<s> $A </s>", template=template)
    pair = kept(pair, tokenizer)
    whole = [*pair.prompt.tolist(), *pair.chosen.tolist()]
    assert whole.count(tokenizer.bos_token_id) == whole.count(tokenizer.eos_token_id) == 1
    assert (whole[0], whole[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_template_that_ends_in_eos_and_newline_is_left_as_it_is():
    tokenizer = bpe(template=CHATML.replace("<|im_end|>", "</s>"))
    ids = kept(CHAT, tokenizer).chosen
    assert tokenizer.decode(ids) == "Once upon a time</s>\n"


@pytest.mark.parametrize(
    ("adds", "leading"), [("", []), ("<s> $A", ["<s>"]), ("<s> $A </s>", ["<s>"]), ("$A </s>", [])]
)
def test_plain_text_has_the_tokenizers_bos_and_exactly_one_eos(adds, leading):
    tokenizer = bpe(bos=True, adds=adds)
    pair = kept(PLAIN, tokenizer)
    eos = tokenizer.eos_token_id
    lead = tokenizer.convert_tokens_to_ids(leading)
    bare = tokenizer(PLAIN.prompt, add_special_tokens=False)["input_ids"]
    assert pair.prompt.tolist() == [*lead, *bare]
    for ids, text in ((pair.chosen, PLAIN.chosen), (pair.rejected, PLAIN.rejected)):
        assert ids.tolist() == [*tokenizer(text, add_special_tokens=False)["input_ids"], eos]


def test_tokenizer_without_bos_eos_or_pad_takes_plain_text():
    tokenizer = bpe(bos=False, eos=False)
    result = tokenize(PLAIN, tokenizer)
    assert result.pair is not None
    assert tokenizer.decode(result.pair.chosen) == " Paris."
    assert result.open_ended == 2, "neither answer teaches the model to stop, and the report must know"


STORY, CAT = "Once upon a time<|im_end|>\n", "a cat<|im_end|>\n"


@pytest.mark.parametrize(
    ("pair", "template", "prompt", "chosen", "rejected"),
    [
        # " the" is one token, so the prompt's trailing space is no token of prompt + chosen.
        (("What is ", "the capital", "a capital"), None, "What is", " the capital</s>", " a capital</s>"),
        (("What is ", "the capital", "\n\nit"), None, "What is", " the capital</s>", " \n\nit</s>"),
        ((CHAT.prompt, CHAT.chosen, CHAT.rejected), THINKING, "<|im_start|>assistant\n", STORY, CAT),
    ],
    ids=["both answers merge", "one of them", "the template's prompt is no prefix"],
)
def test_a_boundary_inside_a_token_moves_back_for_both_answers(pair, template, prompt, chosen, rejected):
    tokenizer = bpe(template=template)
    result = tokenize(PreferencePair(*pair), tokenizer)
    assert result.boundary_moved
    assert tokenizer.decode(result.pair.prompt).endswith(prompt)
    assert tokenizer.decode(result.pair.chosen) == chosen
    assert tokenizer.decode(result.pair.rejected) == rejected


def test_a_prompt_that_is_a_prefix_is_not_counted_as_moved():
    assert not tokenize(CHAT, bpe(template=CHATML)).boundary_moved
    assert not tokenize(PLAIN, bpe()).boundary_moved


def test_only_the_assistants_turns_of_a_long_completion_are_scored():
    tokenizer = bpe(template=CHATML)
    pair = kept(
        PreferencePair(
            [user("hello")],
            [assistant("hello there"), user("tell me"), assistant("a story")],
            [assistant("a dog"), {"role": "tool", "content": "cat"}, assistant("help")],
        ),
        tokenizer,
    )
    assert (
        scored_text(tokenizer, pair.chosen, pair.chosen_scored)
        == "hello there<|im_end|>\na story<|im_end|>\n"
    )
    assert scored_text(tokenizer, pair.rejected, pair.rejected_scored) == "a dog<|im_end|>\nhelp<|im_end|>\n"
    assert "tell me" in tokenizer.decode(pair.chosen[~pair.chosen_scored])


def test_completion_that_opens_with_the_user_scores_none_of_the_users_words():
    tokenizer = bpe(template=CHATML)
    pair = kept(
        PreferencePair(
            [user("hello"), assistant("hello there")],
            [user("tell me"), assistant("a story")],
            [user("help"), assistant("a dog")],
        ),
        tokenizer,
    )
    assert tokenizer.decode(pair.prompt).endswith("hello there<|im_end|>\n")
    assert scored_text(tokenizer, pair.chosen, pair.chosen_scored) == "a story<|im_end|>\n"
    assert scored_text(tokenizer, pair.rejected, pair.rejected_scored) == "a dog<|im_end|>\n"


def test_template_that_rewrites_earlier_turns_scores_no_foreign_word_and_counts_what_it_hides():
    tokenizer = bpe(template=STRIPS_THINKING)
    result = tokenize(
        PreferencePair(
            [user("hello")],
            [assistant("hello there"), user("tell me"), assistant("a story")],
            [assistant("a dog"), user("tell me"), assistant("help")],
        ),
        tokenizer,
    )
    assert result.pair is not None
    assert result.turns_unscored == 2
    said = scored_text(tokenizer, result.pair.chosen, result.pair.chosen_scored)
    assert said == "<think>\n\n</think>\n\na story<|im_end|>\n"


def test_template_that_rewrites_the_users_turn_drops_the_pair_rather_than_score_the_users_words():
    tokenizer = bpe(template=MARKS_THE_LAST)
    pair = PreferencePair(
        [user("hello"), assistant("hello there")],
        [user("tell me"), assistant("a story")],
        [user("help"), assistant("a dog")],
    )
    assert tokenize(pair, tokenizer).reason == "no token of the answer can be scored"


def test_each_completion_is_cut_at_its_end_to_max_length():
    tokenizer = bpe()
    whole = kept(PLAIN, tokenizer)
    room = 2
    result = tokenize(PLAIN, tokenizer, len(whole.prompt) + room)
    assert result.pair is not None
    assert result.pair.chosen.tolist() == whole.chosen[:room].tolist()
    assert result.pair.rejected.tolist() == whole.rejected[:room].tolist()
    assert len(result.pair.chosen_scored) == room
    assert result.completions_cut == 2
    assert result.uncut == (len(whole.prompt), len(whole.chosen), len(whole.rejected))


def test_truncation_never_leaves_a_pair_without_completion_tokens():
    tokenizer = bpe()
    prompt = len(kept(PLAIN, tokenizer).prompt)
    assert tokenize(PLAIN, tokenizer, prompt + 1).pair is not None
    for bound in (prompt, prompt - 1):
        result = tokenize(PLAIN, tokenizer, bound)
        assert (result.pair, result.reason) == (None, "prompt fills max_length")


def test_pair_whose_scored_tokens_all_lie_beyond_max_length_is_dropped():
    tokenizer = bpe(template=CHATML)
    pair = PreferencePair(
        [user("hello"), assistant("hello there")],
        [user("tell me a story about a dog"), assistant("a story")],
        [user("tell me a story about a dog"), assistant("a dog")],
    )
    prompt = len(kept(pair, tokenizer).prompt)
    assert tokenize(pair, tokenizer, prompt + 3).reason == "no scored token within max_length"


def test_answers_that_differ_only_beyond_max_length_are_dropped():
    tokenizer = bpe()
    pair = PreferencePair("What is", " the capital of France", " the capital of Paris")
    prompt = len(kept(pair, tokenizer).prompt)
    assert tokenize(pair, tokenizer, prompt + 2).reason == "chosen and rejected differ only beyond max_length"


def test_answers_with_the_same_tokens_are_dropped():
    tokenizer = bpe(template=LLAMA2)
    pair = PreferencePair([user("hello")], [assistant("help")], [assistant(" help ")])
    assert tokenize(pair, tokenizer).reason == "chosen and rejected have the same tokens"


def test_conversation_without_chat_template_names_the_tokenizer_and_the_ways_out():
    tokenizer = bpe(name_or_path="tiny/base-model")
    with pytest.raises(DataError) as error:
        tokenize(CHAT, tokenizer)
    assert "tiny/base-model has no chat template" in str(error.value)
    assert "model.chat_template" in str(error.value)
    assert error.value.exit_code == 3


def test_messages_that_the_template_refuses_are_dropped_with_the_templates_words():
    pair = PreferencePair([{"role": "system", "content": "be kind"}, user("hi")], CHAT.chosen, CHAT.rejected)
    result = tokenize(pair, bpe(template=LLAMA2))
    assert result.reason == "the chat template refuses the messages: System role not supported"


def test_tools_reach_the_template():
    template = "{% if tools %}{{ tools[0]['name'] }}{% endif %}" + CHATML
    tokenizer = bpe(template=template)
    pair = PreferencePair(CHAT.prompt, CHAT.chosen, CHAT.rejected, [{"name": "search"}])
    assert tokenizer.decode(kept(pair, tokenizer).prompt).startswith("search")


def test_a_bad_pair_among_good_ones_leaves_order_and_rows_alone():
    tokenizer = bpe(template=LLAMA2)
    bad = PreferencePair([{"role": "system", "content": "x"}], CHAT.chosen, CHAT.rejected)
    results = PairTokenizer(tokenizer, Limits(100))([(3, CHAT), (4, bad), (9, PLAIN)])
    assert [result.pair and result.pair.row for result in results] == [3, None, 9]


WORDS = st.text(alphabet="ab \nFParis'é日", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(prompt=WORDS, chosen=WORDS, rejected=WORDS, bos=st.booleans())
def test_prompt_and_completion_are_always_the_tokens_of_the_whole_text(prompt, chosen, rejected, bos):
    tokenizer = bpe(bos=True, adds="<s> $A" if bos else "")
    result = tokenize(PreferencePair(prompt, chosen, rejected), tokenizer)
    if result.pair is None:
        assert chosen == rejected or result.reason == "prompt and answers have no first token in common"
        return
    for answer, ids in ((chosen, result.pair.chosen), (rejected, result.pair.rejected)):
        whole = tokenizer(prompt + answer)["input_ids"] + [tokenizer.eos_token_id]
        assert [*result.pair.prompt.tolist(), *ids.tolist()] == whole
    alone = tokenizer(prompt)["input_ids"]
    assert result.pair.prompt.tolist() == alone[: len(result.pair.prompt)]
    assert result.boundary_moved == (len(result.pair.prompt) < len(alone))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_common_prefix_is_common_and_longest(a, b):
    n = common_prefix(np.array(a, np.int32), np.array(b, np.int32))
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ("q", "", "b", "chosen answer is empty"),
        ("q", "a", " \n", "rejected answer is empty"),
        ("q", None, "b", "chosen answer is missing"),
        ("q", "a", None, "rejected answer is missing"),
        (" ", "a", "b", "prompt is empty"),
        (None, "a", "b", "prompt is missing"),
        ("q", "a", "a", "chosen and rejected are identical"),
        ([user("q")], [], [assistant("b")], "chosen answer is empty"),
        ([user("q")], [assistant("")], [assistant("b")], "chosen answer is empty"),
        ([user("q")], [{"role": "assistant"}], [assistant("b")], "chosen answer is empty"),
        ([user("q")], [user("a")], [assistant("b")], "chosen answer has no assistant turn"),
        ([user("q")], [assistant("a")], [assistant("a")], "chosen and rejected are identical"),
        ([user("")], [assistant("a")], [assistant("b")], "prompt is empty"),
        ([], [assistant("a")], [assistant("b")], "prompt is empty"),
        ("q", [assistant("a")], "b", "prompt and answers are neither all text nor all messages"),
        (3, "a", "b", "prompt and answers are neither all text nor all messages"),
    ],
)
def test_unusable_pairs_have_a_stable_reason(prompt, chosen, rejected, reason):
    with pytest.raises(UnusableRow, match=f"^{reason}$"):
        check_pair(PreferencePair(prompt, chosen, rejected))


def test_an_answer_of_tool_calls_alone_is_no_empty_answer():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "search"}}]}
    check_pair(PreferencePair([user("q")], [call], [assistant("b")]))
