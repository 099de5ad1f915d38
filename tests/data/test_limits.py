"""Limits on the length of pairs: what is cut, what stays whole, what is dropped and counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair
from dpotrain.data.inspection.row_view import row_view
from dpotrain.data.tokens.limits import (
    ANSWER_FILLS,
    NOTHING_OF_PROMPT,
    PAIR_TOO_LONG,
    PROMPT_FILLS,
    PROMPT_TOO_LONG,
    Limits,
)
from dpotrain.data.tokens.tokenize_pairs import PairResult, PairTokenizer
from dpotrain.data.tokens.tokenized import pair_key
from tests.data.families import FAMILIES
from tests.data.inspection.inspecting import clean, found, reader
from tests.data.preparing import everything, prepare, row
from tests.data.tokenizers_for_tests import CHATML, LLAMA2, assistant, bpe, user

LONG = "tell me a story about a dog and a cat " * 3
#: Turns inside the completions, of which only the assistant's are scored.
TURNS = PreferencePair(
    [user(LONG), assistant("hello there"), user("and then?")],
    [assistant("a story"), user("which?"), assistant("of a dog")],
    [assistant("no"), user("why?"), assistant("help")],
)


def tokenize(pair: PreferencePair, tokenizer, limits: Limits) -> PairResult:
    [result] = PairTokenizer(tokenizer, limits)([(7, pair)])
    return result


#: With the tokens that stay in front of a cut prompt.
TOKENIZERS = {
    "without BOS": (bpe(template=CHATML), []),
    "BOS by the tokenizer and the template": (bpe(bos=True, adds="<s> $A", template=LLAMA2), ["<s>"]),
    "two special tokens": (
        bpe(bos=True, adds="<|im_start|> <s> $A", template=CHATML),
        ["<|im_start|>", "<s>"],
    ),
}
WORDS = st.text(alphabet="ab \nFParis'é日", min_size=1, max_size=30).filter(str.strip)
PAIRS = st.one_of(
    st.just(TURNS),
    st.builds(PreferencePair, WORDS, WORDS, WORDS).filter(lambda pair: pair.chosen != pair.rejected),
)
LENGTHS = st.tuples(st.integers(2, 120), st.none() | st.integers(1, 119)).filter(
    lambda both: both[1] is None or both[1] < both[0]
)


@settings(max_examples=300, deadline=None)
@given(
    pair=PAIRS,
    name=st.sampled_from(sorted(TOKENIZERS)),
    lengths=LENGTHS,
    truncation=st.sampled_from(["end", "start", "drop"]),
)
def test_what_is_kept_fits_and_has_lost_no_more_than_it_must(pair, name, lengths, truncation):
    (tokenizer, first), limits = TOKENIZERS[name], Limits(*lengths, truncation)
    whole = tokenize(pair, tokenizer, Limits(10_000)).pair
    result = tokenize(pair, tokenizer, limits)
    if whole is None:
        assert result.pair is None
        return
    most, most_of_prompt = limits.max_length, limits.max_prompt_length or limits.max_length
    prompt, longer = len(whole.prompt), max(len(whole.chosen), len(whole.rejected))
    special = tokenizer.convert_tokens_to_ids(first)
    front = next(at for at, token in enumerate([*whole.prompt.tolist(), -1]) if token not in special)
    fits = prompt <= most_of_prompt and prompt + longer <= most
    assert result.uncut == (prompt, len(whole.chosen), len(whole.rejected))
    if result.pair is None:
        assert not fits
        expected = {
            "end": {
                PROMPT_FILLS: limits.max_prompt_length is None and prompt >= most,
                NOTHING_OF_PROMPT: prompt > most_of_prompt <= front,
                "no scored token within max_length": True,
                "chosen and rejected differ only beyond max_length": True,
            },
            "start": {
                NOTHING_OF_PROMPT: prompt > most_of_prompt <= front,
                ANSWER_FILLS: most - longer <= front,
            },
            "drop": {PROMPT_TOO_LONG: prompt > most_of_prompt, PAIR_TOO_LONG: prompt + longer > most},
        }
        assert expected[truncation][result.reason]
        return
    kept = result.pair
    assert kept.longest() <= most
    assert len(kept.prompt) <= most_of_prompt
    assert fits or truncation != "drop"
    # The prompt: its special tokens in front, and its end.
    cut = prompt - len(kept.prompt)
    assert (
        kept.prompt.tolist()
        == [*whole.prompt[:front].tolist(), *whole.prompt[front + cut :].tolist()][: prompt - cut]
    )
    assert result.prompt_cut == (cut > 0)
    if cut:
        assert len(kept.prompt) > front
        assert len(kept.prompt) == most_of_prompt or (truncation == "start" and kept.longest() == most)
    # The completions with their flags: whole, or cut at their end to what fits.
    for mine, theirs in (
        ((kept.chosen, kept.chosen_scored), (whole.chosen, whole.chosen_scored)),
        ((kept.rejected, kept.rejected_scored), (whole.rejected, whole.rejected_scored)),
    ):
        expected_length = (
            min(len(theirs[0]), most - len(kept.prompt)) if truncation == "end" else len(theirs[0])
        )
        for part, of in zip(mine, theirs, strict=True):
            assert part.tolist() == of[:expected_length].tolist()
    cut_answers = sum(most - len(kept.prompt) < len(ids) for ids in (whole.chosen, whole.rejected))
    assert result.completions_cut == (cut_answers if truncation == "end" else 0)
    if fits:
        assert pair_key(kept) == pair_key(whole)


@pytest.mark.parametrize("truncation", ["end", "start", "drop"])
def test_a_pair_exactly_as_long_as_the_bounds_is_whole(truncation):
    tokenizer = bpe(template=CHATML)
    whole = tokenize(TURNS, tokenizer, Limits(10_000)).pair
    most, prompt = whole.longest(), len(whole.prompt)
    fits = tokenize(TURNS, tokenizer, Limits(most, prompt, truncation))
    assert pair_key(fits.pair) == pair_key(whole)
    assert not fits.prompt_cut
    assert not fits.completions_cut
    for limits in (Limits(most - 1, None, truncation), Limits(most, prompt - 1, truncation)):
        result = tokenize(TURNS, tokenizer, limits)
        assert result.pair is None or result.prompt_cut or result.completions_cut
        assert (result.pair is None) == (truncation == "drop")


@pytest.mark.parametrize("truncation", ["end", "start"])
def test_a_cut_prompt_keeps_its_bos_in_front_and_the_generation_prompt_at_its_end(truncation):
    tokenizer = FAMILIES["Llama 3"].tokenizer()
    whole = tokenize(TURNS, tokenizer, Limits(10_000)).pair
    longer = max(len(whole.chosen), len(whole.rejected))
    limits = Limits(longer + 20, None if truncation == "start" else 20, truncation)
    kept = tokenize(TURNS, tokenizer, limits).pair
    assert len(kept.prompt) == 20
    assert kept.prompt[0] == tokenizer.bos_token_id
    assert kept.prompt.tolist().count(tokenizer.bos_token_id) == 1
    assert kept.prompt[1:].tolist() == whole.prompt[-19:].tolist()
    assert tokenizer.decode(kept.prompt).endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    said = tokenizer.decode(kept.chosen[kept.chosen_scored])
    assert said == "a story<|eot_id|>of a dog<|eot_id|>"
    assert pair_key(kept) != pair_key(whole)


def test_a_prompt_whose_bos_alone_would_stay_is_dropped():
    tokenizer = bpe(bos=True, adds="<s> $A")
    pair = PreferencePair("hello there", " yes", " no")
    whole = tokenize(pair, tokenizer, Limits(1000)).pair
    longer = max(len(whole.chosen), len(whole.rejected))
    assert len(tokenize(pair, tokenizer, Limits(longer + 2, None, "start")).pair.prompt) == 2
    assert tokenize(pair, tokenizer, Limits(longer + 1, None, "start")).reason == ANSWER_FILLS
    assert tokenize(pair, tokenizer, Limits(100, 1)).reason == NOTHING_OF_PROMPT
    assert len(tokenize(pair, bpe(), Limits(100, 1)).pair.prompt) == 1


@pytest.fixture
def rows():
    """Every second prompt is long."""
    return [row(number, "question " + "word " * (8 if number % 2 else 1)) for number in range(8)]


def test_cut_prompts_are_counted_and_said_and_found(recipe, rows):
    prepared, shown = prepare(recipe([*rows, *map(row, range(8, 40))], max_length=100, max_prompt_length=20))
    report = prepared.report
    split = report.splits["train"]
    assert (split.pairs_kept, split.prompts_cut, split.completions_cut) == (40, 4, 0)
    assert split.first_rows["prompts_cut"] == [1, 3, 5, 7]
    assert prepared.train.prompt_lengths.max() == 20
    assert "train: 4 prompts cut at their start by max_prompt_length = 20" in report.summary_lines()
    assert not shown.warnings
    plain = report.as_json()
    assert (plain["max_prompt_length"], plain["truncation"]) == (20, "end")
    assert plain["splits"]["train"]["prompts_cut"] == 4
    assert type(report).restored(plain).limits == Limits(100, 20)


def test_many_cut_prompts_are_warned_about(recipe, rows):
    prepared, shown = prepare(recipe(rows, max_length=100, max_prompt_length=20))
    longest = int(prepared.report.splits["train"].uncut_lengths["prompt"]["max"])
    assert shown.warnings == [
        "max_prompt_length = 20: 4 of 8 prompts of train are cut at their start. What a prompt has lost, such as its "
        f"system text, the model does not see.\nRaise data.max_prompt_length; the longest prompt has {longest} tokens."
    ]


def test_with_start_the_keys_to_raise_are_those_that_cut(recipe, rows):
    prepared, shown = prepare(recipe(rows, max_length=30, truncation="start"))
    assert prepared.report.splits["train"].prompts_cut == 4
    assert prepared.train.longest_sequences.max() == 30
    (warning,) = shown.warnings
    assert warning.startswith("max_length = 30: 4 of 8 prompts")
    assert "\nRaise data.max_length; the longest prompt with answer has " in warning


def test_dropped_pairs_are_counted(recipe, rows):
    prepared, _ = prepare(recipe(rows, max_length=30, truncation="drop"))
    split = prepared.report.splits["train"]
    assert prepared.train.rows.tolist() == [0, 2, 4, 6]
    assert split.dropped[PAIR_TOO_LONG].count == split.rows_dropped == 4
    assert (split.prompts_cut, split.completions_cut) == (0, 0)


@pytest.mark.parametrize(
    ("keys", "reason", "remedy"),
    [
        (
            {"max_length": 7, "truncation": "drop"},
            PAIR_TOO_LONG,
            "max_length = 7, and the shortest prompt with its longer answer has {sequence} tokens: raise "
            'data.max_length, or set data.truncation = "end" to cut answers.',
        ),
        (
            {"max_length": 3, "truncation": "start"},
            ANSWER_FILLS,
            "max_length = 3, and the shortest prompt with its longer answer has {sequence} tokens: raise "
            'data.max_length, or set data.truncation = "end" to cut answers.',
        ),
        (
            {"max_length": 50, "max_prompt_length": 4, "truncation": "drop"},
            PROMPT_TOO_LONG,
            "max_prompt_length = 4, and the shortest prompt has {prompt} tokens: raise data.max_prompt_length.",
        ),
    ],
)
def test_limits_that_leave_nothing_name_the_key_to_raise(recipe, keys, reason, remedy):
    rows = [row(number, f"question word word {number}") for number in range(3)]
    whole, _ = prepare(recipe(rows))
    lengths = whole.report.splits["train"].uncut_lengths
    with pytest.raises(DataError) as caught:
        prepare(recipe(rows, **keys))
    assert str(caught.value) == (
        'No usable pair in split "train": all 3 rows were dropped.\n'
        f"  3 dropped: {reason} (rows 0, 1, 2)\n"
        + remedy.format(**{part: int(of["min"]) for part, of in lengths.items()})
    )


def test_prompts_stay_apart_by_their_whole_text(recipe):
    """Cut prompts may be the same tokens; what is held out is decided before."""
    rows = [row(number, f"{number % 10} " + "word " * 30) for number in range(40)]
    keys = {"eval_fraction": 0.3}
    whole, _ = prepare(recipe(rows, **keys))
    cut, _ = prepare(recipe(rows, max_length=60, max_prompt_length=10, **keys))
    assert cut.report.splits["train"].prompts_cut == 40
    assert cut.evaluation.rows.tolist() == whole.evaluation.rows.tolist()


@pytest.mark.parametrize("keys", [{"max_prompt_length": 20}, {"max_length": 30, "truncation": "start"}])
def test_another_limit_is_not_found_in_the_cache(recipe, rows, tmp_path, keys):
    cache = tmp_path / "cache"
    prepare(recipe(rows), cache=cache)
    cached, _ = prepare(recipe(rows, **keys), cache=cache)
    fresh, _ = prepare(recipe(rows, **keys))
    assert everything(cached) == everything(fresh)
    assert cached.report.splits["train"].prompts_cut == 4


def test_a_row_shows_which_tokens_of_its_prompt_are_cut():
    made = reader([row(0, "hello there " * 10)], bpe(bos=True, adds="<s> $A"), max_prompt_length=6)
    (pair,) = row_view(made, "train", 0).pairs
    kept = made.prepare().train[0]
    shown = [piece for piece in pair.prompt.pieces if piece.part != "cut"]
    assert [token for piece in shown for token in piece.tokens] == kept.prompt.tolist()
    assert [piece.part for piece in pair.prompt.pieces] == ["prompt", "cut", "prompt"]
    assert pair.chosen.count("cut") == pair.rejected.count("cut") == 0


def test_cut_prompts_are_a_finding_with_the_key_to_raise():
    rows = clean(40) + [row(number, "long words " * 40) for number in (40, 41)]
    (finding,) = found(rows, "cut prompts", max_prompt_length=120)
    assert finding.text == "2 of 42 prompts (4.8 %) cut at their start by max_prompt_length = 120"
    assert finding.remedy.startswith("Raise data.max_prompt_length; the longest prompt has ")
    assert finding.rows == (40, 41)
    assert finding.severity == "warning"


def test_a_pair_that_is_dropped_for_its_prompt_has_the_key_in_its_remedy():
    rows = [*clean(40), row(40, "long words " * 40)]
    dropped = found(rows, "dropped rows", max_prompt_length=120, truncation="drop")
    assert [(finding.text, finding.remedy) for finding in dropped] == [
        (
            f"1 of 41 rows (2.4 %) dropped: {PROMPT_TOO_LONG}",
            "Raise data.max_prompt_length, or remove the rows.",
        )
    ]
