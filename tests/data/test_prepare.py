"""From files to tokenized pairs, with every row accounted for."""

import json

import pytest

from dpotrain.core.errors import DataError, RecipeError
from dpotrain_plugins.formatters.instruction import QuestionFormatter
from dpotrain_plugins.formatters.ranked import RankedFormatter
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.data.preparing import prepare, row
from tests.data.tokenizers_for_tests import CHATML, THINKING, assistant, bpe, user


def test_every_row_is_kept_or_counted_with_its_reason(recipe):
    rows = [
        row(0),
        row(1) | {"chosen": ""},
        row(2) | {"rejected": None},
        row(3) | {"rejected": " yes 3"},
        row(4, "long " * 200),
        {"prompt": "q", "chosen": ["a"], "rejected": "b"},
        row(6),
        row(7) | {"chosen": ""},
    ]
    prepared, shown = prepare(recipe(rows, max_length=40))
    report = prepared.report.as_json()
    train = report["splits"]["train"]
    assert prepared.train.rows.tolist() == [0, 6]
    assert train["dropped"] == {
        "chosen is empty": {"count": 2, "first_rows": [1, 7]},
        "rejected is missing": {"count": 1, "first_rows": [2]},
        "chosen and rejected are identical": {"count": 1, "first_rows": [3]},
        "chosen is neither text nor messages": {"count": 1, "first_rows": [5]},
        "prompt fills max_length": {"count": 1, "first_rows": [4]},
    }
    assert train["rows_read"] == train["pairs_kept"] + train["rows_dropped"] == 8
    assert report["pairs"] == {"train": 2, "evaluation": None}
    assert report["format"] == prepared.formatter == "standard"
    assert json.loads(json.dumps(report)) == report
    assert shown.phases == [["reading the data", None, 0], ["tokenizing", 8, 8]]
    assert any("2 dropped: chosen is empty (rows 1, 7)" in text for text in shown.warnings)
    assert any("data format: standard" in text for text in shown.notes)


def test_lengths_are_quantiles_of_the_pairs_kept_and_uncut_ones_of_all(recipe):
    rows = [row(number) for number in range(9)] + [row(9, "long " * 100)]
    prepared, _ = prepare(recipe(rows, max_length=60))
    split = prepared.report.splits["train"]
    assert split.lengths["prompt"]["max"] == prepared.train.prompt_lengths.max()
    assert split.lengths["total"]["min"] == prepared.train.lengths.min()
    assert split.lengths["chosen"]["mean"] == round(prepared.train.chosen_lengths.mean(), 1)
    assert split.uncut_lengths["prompt"]["max"] >= 100


def test_cut_answers_and_moved_boundaries_are_counted(recipe):
    rows = [
        {"prompt": [user("hello")], "chosen": [assistant("yes " * 50)], "rejected": [assistant("no")]},
        {"prompt": [user("hello there")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    ]
    prepared, _ = prepare(recipe(rows, max_length=60), bpe(template=THINKING))
    split = prepared.report.splits["train"]
    assert (split.completions_cut, split.boundaries_moved) == (1, 2)
    lines = prepared.report.summary_lines()
    assert "train: 1 answers cut at max_length = 60" in lines
    assert any("moved back in 2 pairs" in line for line in lines)


def test_evaluation_fraction_shares_no_prompt_with_training(recipe):
    rows = [row(number, prompt=f"question {number % 20}") for number in range(60)]
    prepared, _ = prepare(recipe(rows, eval_fraction=0.3))
    assert prepared.evaluation is not None
    train, held = ({rows[i]["prompt"] for i in pairs.rows} for pairs in (prepared.train, prepared.evaluation))
    assert train
    assert held
    assert not train & held
    assert sorted([*prepared.train.rows, *prepared.evaluation.rows]) == list(range(60))
    assert prepared.report.as_json()["pairs"] == {
        "train": len(prepared.train),
        "evaluation": len(prepared.evaluation),
    }


def test_evaluation_fraction_does_not_depend_on_max_length(recipe):
    rows = [row(number, f"question {number} " + "word " * number) for number in range(60)]
    whole, _ = prepare(recipe(rows, eval_fraction=0.3))
    short, _ = prepare(recipe(rows, eval_fraction=0.3, max_length=100))
    assert len(short.train) < len(whole.train)
    assert set(short.evaluation.rows) <= set(whole.evaluation.rows)
    assert set(short.train.rows) <= set(whole.train.rows)


def test_one_prompt_alone_leaves_nothing_to_hold_out_and_says_so(recipe):
    prepared, shown = prepare(recipe([row(0, "q"), row(1, "q")], eval_fraction=0.5))
    assert prepared.evaluation is None
    assert len(prepared.train) == 2
    assert any("same prompt" in text for text in shown.warnings)


def test_evaluation_split_with_prompts_that_are_trained_on_is_used_whole_and_warned_about(recipe):
    splits = {"train": [row(0), row(1)], "test": [row(1), row(2)]}
    prepared, shown = prepare(recipe(splits, eval_split="test"))
    assert prepared.evaluation.rows.tolist() == [0, 1]
    assert (prepared.report.shared_prompts, prepared.report.shared_prompt_rows) == (
        {"test": 1},
        {"test": [0]},
    )
    assert list(prepared.report.splits) == ["train", "test"]
    assert any(
        text.startswith("1 prompts of the evaluation split test are also trained on")
        for text in shown.warnings
    )


def test_evaluating_on_the_training_split_is_refused(recipe):
    with pytest.raises(RecipeError, match=r'data\.eval_split = "train" is also the split to train on'):
        prepare(recipe([row(0)], eval_split="train"))


def test_limit_and_preview_take_the_first_rows_of_each_split(recipe):
    splits = {"train": [row(n) for n in range(30)], "test": [row(n) for n in range(30, 60)]}
    prepared, _ = prepare(recipe(splits, eval_split="test", limit=20))
    assert (len(prepared.train), len(prepared.evaluation)) == (20, 20)
    assert prepared.preview == ()
    prepared, _ = prepare(recipe(splits, eval_split="test", limit=20), preview=4)
    assert prepared.train.rows.tolist() == [0, 1, 2, 3]
    assert [pair.prompt for pair in prepared.preview] == ["question 0", "question 1", "question 2"]


def test_a_max_length_no_prompt_fits_says_how_long_the_shortest_is(recipe):
    tokenizer = bpe()
    shortest = len(tokenizer("question word word")["input_ids"])
    rows = [row(n, "question" + " word" * (n + 2)) for n in range(3)]
    with pytest.raises(DataError) as error:
        prepare(recipe(rows, max_length=2), tokenizer)
    assert str(error.value) == (
        'No usable pair in split "train": all 3 rows were dropped.\n'
        "  3 dropped: prompt fills max_length (rows 0, 1, 2)\n"
        f"max_length = 2, and the shortest prompt has {shortest} tokens: raise data.max_length."
    )
    assert error.value.exit_code == 3


def test_an_evaluation_split_without_a_usable_pair_is_an_error_too(recipe):
    splits = {"train": [row(0)], "test": [row(1) | {"chosen": ""}]}
    with pytest.raises(DataError, match='No usable pair in split "test"'):
        prepare(recipe(splits, eval_split="test"))


def test_the_same_recipe_gives_the_same_tokens_however_rows_fall_into_batches(recipe, monkeypatch):
    rows = [
        {
            "prompt": [user(f"hello {n}")],
            "chosen": [assistant(f"yes {n}")],
            "rejected": [assistant(f"no {n}")],
        }
        for n in range(20)
    ]
    one, _ = prepare(recipe(rows), bpe(template=CHATML))
    monkeypatch.setattr("dpotrain.data.tokens.workers.ROWS_PER_BATCH", 3)
    two, shown = prepare(recipe(rows), bpe(template=CHATML))
    assert one.train.stores[0].tokens.tolist() == two.train.stores[0].tokens.tolist()
    assert one.train.rows.tolist() == two.train.rows.tolist() == list(range(20))
    assert shown.phases == [["reading the data", None, 0], ["tokenizing", 20, 20]]


def test_answers_that_teach_no_ending_are_warned_about(recipe):
    _, shown = prepare(recipe([row(0), row(1)]), bpe(eos=False))
    assert any("4 of 4 answers of train do not end in a special token" in text for text in shown.warnings)


def test_first_rows_of_a_reason_are_a_few_and_the_count_is_all(recipe):
    rows = [row(0)] + [row(n) | {"chosen": ""} for n in range(1, 40)]
    prepared, _ = prepare(recipe(rows))
    dropped = prepared.report.splits["train"].dropped["chosen is empty"]
    assert (dropped.count, dropped.first_rows) == (39, list(range(1, 11)))
    assert any("39 dropped" in line and "10, …)" in line for line in prepared.report.summary_lines())


def test_plain_text_for_a_chat_model_is_asked_about(recipe):
    rows = [row(number) for number in range(4)]
    with pytest.raises(DataError) as caught:
        prepare(recipe(rows), bpe(template=CHATML))
    assert str(caught.value) == (
        "The formatter standard makes plain text of the rows, to which the model's chat template is not applied.\n"
        "Which is meant decides what the model learns. Set one of these in [data], or with --set:\n"
        '  data.format = "question"   each prompt is a user turn, each answer the assistant\'s\n'
        '  data.format = "standard"   the text is trained on as it stands'
    )


@pytest.mark.parametrize(
    ("formatter", "template", "plain"),
    [
        (StandardFormatter(StandardFormatter.Options()), CHATML, True),
        (QuestionFormatter(QuestionFormatter.Options()), CHATML, False),
        (None, None, False),
    ],
)
def test_plain_text_is_trained_on_as_the_recipe_sets_it_or_without_a_chat_template(
    recipe, formatter, template, plain
):
    rows = [row(number) for number in range(4)]
    prepared, shown = prepare(recipe(rows, formatter=formatter), bpe(template=template))
    assert len(prepared.train) == 4
    assert prepared.report.plain_text_for_chat_model is plain
    assert not any("plain text" in text for text in shown.warnings)


def test_a_few_rows_of_plain_text_among_messages_give_a_warning(recipe):
    chats = [
        {"chosen": [user(f"What? {n}"), assistant("a")], "rejected": [user(f"What? {n}"), assistant("b")]}
        for n in range(60)
    ]
    text = "### Instruction:\nCount them\n\n### Response:\n"
    rows = [*chats, *({"chosen": f"{text}seven {n}", "rejected": f"{text}two {n}"} for n in range(4))]
    prepared, shown = prepare(recipe(rows), bpe(template=CHATML))
    assert prepared.report.chat_template_ignored
    assert any("4 pairs are plain text" in text for text in shown.warnings)


def test_plain_text_that_no_formatter_reads_as_a_chat_has_one_remedy(recipe):
    text = "### Instruction:\nCount them\n\n### Response:\n"
    rows = [{"chosen": f"{text}seven {n}", "rejected": f"{text}two {n}"} for n in range(4)]
    with pytest.raises(DataError) as caught:
        prepare(recipe(rows), bpe(template=CHATML))
    assert "data.format = " in str(caught.value)
    assert str(caught.value).endswith(
        '  data.format = "implicit-prompt"   the text is trained on as it stands\n'
        "If the pairs are of a chat, write them as messages: no formatter reads these rows as one."
    )


def test_a_row_of_which_a_pair_is_kept_is_not_counted_as_dropped(recipe):
    answers = [{"answer": text, "score": score} for text, score in (("one", 3), ("two", 2), ("two", 1))]
    rows = [{"prompt": "How many?", "answers": answers}, {"prompt": "How many?", "answers": answers[:1]}]
    ranked = RankedFormatter(RankedFormatter.Options(pairs="all"))
    prepared, _ = prepare(recipe(rows, formatter=ranked), bpe(template=CHATML))
    train = prepared.report.as_json()["splits"]["train"]
    assert (train["rows_read"], train["rows_dropped"], train["pairs_kept"]) == (2, 1, 2)
    assert {reason: one["count"] for reason, one in train["dropped"].items()} == {
        "chosen and rejected are identical": 1,
        "there is only one answer": 1,
    }
