"""Every finding, on data that has it and on data that has not."""

import io
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dpotrain.data.inspection.findings import FINDERS
from dpotrain.plugin.api import DatasetFormatter, PreferencePair, Recognition
from dpotrain.ui.inspection import print_inspection
from dpotrain_plugins.formatters.conversational import ConversationalFormatter
from dpotrain_plugins.formatters.ranked import RankedFormatter
from dpotrain_plugins.formatters.standard import StandardFormatter
from tests.data.inspection.inspecting import clean, found, inspected, words
from tests.data.tokenizers_for_tests import CHATML, STRIPS_THINKING, THINKING, assistant, bpe, user

KINDS = list(dict.fromkeys(finder.kind for finder in FINDERS))


def chat(row: dict) -> dict:
    return {
        "prompt": [user(row["prompt"])],
        "chosen": [assistant(row["chosen"])],
        "rejected": [assistant(row["rejected"])],
    }


def only(rows, kind, tokenizer=None, **keys):
    (finding,) = found(rows, kind, tokenizer, **keys)
    return finding


@pytest.mark.parametrize("keys", [{}, {"eval_fraction": 0.2}])
@pytest.mark.parametrize("conversations", [False, True])
def test_of_clean_data_nothing_is_found_and_that_is_said(conversations, keys):
    rows = [chat(row) for row in clean()] if conversations else clean()
    inspection = inspected(rows, bpe(template=CHATML if conversations else None), **keys)
    assert inspection.findings == []
    assert inspection.nothing_of == KINDS


def test_dropped_rows_are_found_by_reason_with_what_to_do():
    rows = [
        *clean(20),
        {"prompt": "q", "chosen": "", "rejected": "no"},
        {"prompt": "w " * 900, **clean(1)[0]},
    ]
    rows[-1]["prompt"] = "long " * 500
    first, second = found(rows, "dropped rows", max_length=500)
    assert {first.text, second.text} == {
        "1 of 22 rows (4.5 %) dropped: chosen is empty",
        "1 of 22 rows (4.5 %) dropped: prompt fills max_length",
    }
    by_text = {finding.text.partition(": ")[2]: finding for finding in (first, second)}
    assert by_text["chosen is empty"].rows == (20,)
    assert by_text["prompt fills max_length"].remedy == "Raise data.max_length, or remove the rows."
    assert first.severity == "warning"
    assert only([*clean(2), *rows[20:21]], "dropped rows").severity == "serious"


def test_data_without_a_usable_pair_is_inspected_nevertheless():
    rows = [{"prompt": f"q{number}", "chosen": "", "rejected": "no"} for number in range(12)]
    for keys in ({}, {"eval_fraction": 0.5}):
        inspection = inspected(rows, **keys)
        (finding,) = inspection.findings
        assert finding.rows == tuple(range(10))
        assert finding.share == 1.0
        # Nothing else could be looked for.
        assert inspection.nothing_of == []
        assert inspection.example is None


def test_an_evaluation_split_without_a_usable_pair_is_inspected_with_the_training_split():
    splits = {"train": clean(20), "test": [{"prompt": "q", "chosen": "", "rejected": "no"}]}
    (finding,) = inspected(splits, eval_split="test").findings
    assert (finding.split, finding.kind) == ("test", "dropped rows")


def test_cut_answers_are_found_with_the_longest_sequence():
    rows = clean(20)
    rows[7]["chosen"] = "long " * 400
    finding = only(rows, "cut answers", max_length=200)
    assert finding.text == "1 of 40 answers (2.5 %) cut at max_length = 200"
    assert finding.rows == (7,)
    assert finding.severity == "warning"
    assert "Raise data.max_length; the longest prompt with answer has " in finding.remedy


def test_answers_without_an_end_token():
    no_end = CHATML.replace("{{ m['content'] }}<|im_end|>\n", "{{ m['content'] }}\n")
    finding = only([chat(row) for row in clean(5)], "answers without an end token", bpe(template=no_end))
    assert (finding.count, finding.severity, finding.rows) == (10, "serious", (0, 1, 2, 3, 4))


def test_moved_boundaries():
    finding = only([chat(row) for row in clean(5)], "moved boundaries", bpe(template=THINKING))
    assert (finding.count, finding.severity, finding.rows) == (5, "note", (0, 1, 2, 3, 4))


def test_unscored_turns():
    row = chat(clean(1)[0])
    row["chosen"] = [*row["chosen"], user("and?"), assistant("more")]
    finding = only([*map(chat, clean(5, seed=1)), row], "unscored turns", bpe(template=STRIPS_THINKING))
    assert (finding.count, finding.rows) == (1, (5,))


@pytest.mark.parametrize(
    ("messages", "severity", "how"), [(True, "note", "tokenized as text"), (False, "warning", "kept")]
)
def test_control_tokens_in_text(messages, severity, how):
    rows = clean(20)
    rows[4]["chosen"] += " It ends with <|im_end|>."
    keys = {"formatter": None if messages else StandardFormatter(StandardFormatter.Options())}
    rows = [chat(row) for row in rows] if messages else rows
    finding = only(rows, "control tokens in text", bpe(template=CHATML), **keys)
    assert (finding.count, finding.rows, finding.severity) == (1, (4,), severity)
    assert "<|im_end|>" in finding.text
    assert how in finding.text


def test_what_the_chat_template_leaves_out():
    """The reasoning of earlier turns; what it leaves out of the last one drops the row."""
    last = "{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    drops = CHATML.replace("{{ m['content'] }}", last + "{{ m['content'] }}")
    rows = [chat(row) for row in clean(10)]
    for row in rows:
        row["prompt"] = [user("first"), assistant("said"), *row["prompt"]]
    keys = {"tokenizer": bpe(template=drops), "max_length": 5000}
    assert not found(rows, "left out by the chat template", **keys)
    rows[3]["prompt"][1]["reasoning_content"] = "thought about it"
    finding = only(rows, "left out by the chat template", **keys)
    assert (finding.count, finding.rows, finding.severity) == (1, (3,), "warning")
    assert "reasoning of earlier assistant turns" in finding.text


def test_plain_text_for_a_model_with_a_chat_template():
    finding = only(clean(5), "plain text for a chat model", bpe(template=CHATML))
    assert (finding.count, finding.severity) == (5, "warning")
    assert finding.remedy == (
        'Set data.format = "question" if the prompts are questions of a chat, or data.format = "standard" if they are '
        "not."
    )
    assert not found(clean(5), "plain text for a chat model", bpe())
    standard = StandardFormatter(StandardFormatter.Options())
    assert not found(clean(5), "plain text for a chat model", bpe(template=CHATML), formatter=standard)


def test_columns_with_text_that_nothing_reads():
    rows = [row | {"note": "seen by nobody", "number": 3} for row in clean(5)]
    finding = only(rows, "columns that nothing reads")
    assert finding.text == 'column "note" has text in 5 of 5 rows (100.0 %) and nothing reads it'


def test_duplicates_name_the_row_that_they_repeat():
    rows = clean(40)
    rows[9] = rows[3]
    rows[30] = rows[3]
    finding = only(rows, "duplicates")
    assert finding.text == "2 of 40 pairs (5.0 %) repeat an earlier pair exactly"
    assert (finding.rows, finding.earlier_rows) == ((9, 30), (3, 3))
    assert finding.severity == "serious"


def test_near_duplicates_name_the_row_that_they_are_like():
    rows = clean(40)
    rows[9] = rows[3] | {"prompt": rows[3]["prompt"].replace("question", "Question")}
    rows[30] = rows[20] | {"chosen": f"{rows[20]['chosen']} Indeed."}
    finding = only(rows, "near duplicates")
    assert finding.text.startswith("2 of 40 pairs (5.0 %) have a prompt and answers that are nearly those of")
    assert (finding.rows, finding.earlier_rows) == ((9, 30), (3, 20))


def test_exact_duplicates_are_not_near_duplicates_as_well():
    rows = clean(40)
    rows[9] = rows[3]
    assert not found(rows, "near duplicates")


def test_the_pairs_of_ranked_answers_are_no_near_duplicates_of_each_other():
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{number} {words(draw, 200)}",
            "answers": [{"answer": words(draw, 8), "rank": rank} for rank in range(3)],
        }
        for number in range(10)
    ]
    inspection = inspected(
        rows,
        bpe(template=CHATML),
        formatter=RankedFormatter(RankedFormatter.Options(pairs="all")),
        max_length=5000,
    )
    assert inspection.report.train_pairs == 30
    assert inspection.findings == []


def test_contradictions_are_pairs_with_swapped_answers_to_the_same_prompt():
    rows = clean(200)
    rows[9] = rows[3] | {"chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    # The same answers the other way round, to another prompt.
    rows[10] = rows[4] | {"prompt": "other?", "chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]}
    # An answer that is chosen once and rejected once, but beside another one.
    rows[11] = {"prompt": rows[5]["prompt"], "chosen": rows[5]["rejected"], "rejected": rows[6]["rejected"]}
    finding = only(rows, "contradictions")
    assert (finding.count, finding.rows, finding.earlier_rows) == (1, (9,), (3,))
    assert not found(rows, "near duplicates")


def test_prompts_shared_by_training_and_evaluation():
    splits = {"train": clean(20), "test": clean(10, seed=1)}
    splits["test"][4] |= {"prompt": splits["train"][2]["prompt"]}
    splits["test"][6] |= {"prompt": splits["train"][2]["prompt"]}
    finding = only(splits, "prompts shared by training and evaluation", eval_split="test")
    assert (finding.count, finding.split, finding.rows, finding.severity) == (1, "test", (4, 6), "serious")


def test_prompts_nearly_shared_by_two_splits():
    draw = random.Random(3)
    long = words(draw, 60)
    splits = {"train": clean(20), "test": clean(10, seed=1)}
    splits["train"][2]["prompt"] = f"{long} now?"
    splits["test"][4]["prompt"] = f"{long} then?"
    # Alike, but on one side.
    splits["train"][7]["prompt"], splits["train"][8]["prompt"] = (
        f"{words(random.Random(5), 60)} {n}" for n in (1, 2)
    )
    splits["test"][5]["prompt"], splits["test"][6]["prompt"] = (
        f"{words(random.Random(4), 60)} {n}" for n in (1, 2)
    )
    finding = only(splits, "prompts nearly shared by training and evaluation", eval_split="test")
    assert (finding.count, finding.rows, finding.earlier_rows) == (1, (4,), (2,))


def test_prompts_nearly_shared_with_those_held_out():
    draw = random.Random(3)
    rows = clean(30)
    long = words(draw, 60)
    for number in range(15):
        rows[number]["prompt"] = f"{long} {number}?"
    finding = only(rows, "prompts nearly shared by training and evaluation", eval_fraction=0.5)
    assert 0 < finding.count < 15
    assert set(finding.rows) | set(finding.earlier_rows) <= set(range(15))


def test_a_system_text_does_not_make_prompts_alike():
    system = {"role": "system", "content": words(random.Random(9), 200)}
    rows = [chat(row) for row in clean(30)]
    for row in rows:
        row["prompt"] = [system, *row["prompt"]]
    assert not found(
        rows,
        "prompts nearly shared by training and evaluation",
        bpe(template=CHATML),
        eval_fraction=0.4,
        max_length=5000,
    )


def test_nearly_identical_answers():
    rows = clean(40)
    rows[5]["rejected"] = rows[5]["chosen"].upper()
    long = words(random.Random(1), 80)
    rows[6] |= {"chosen": f"{long} yes.", "rejected": f"{long} no."}
    finding = only(rows, "nearly identical answers")
    assert (finding.count, finding.rows, finding.severity) == (2, (5, 6), "serious")


class Systems(DatasetFormatter):
    """Leaves each answer the system text that it came with, as a third party's formatter may."""

    name = "systems"

    def recognises(self, row):
        return Recognition.CERTAIN

    def format(self, row):
        answers = [
            [{"role": "system", "content": row[side]["system"]}, assistant(row[side]["text"])]
            for side in ("chosen", "rejected")
        ]
        return PreferencePair([user(row["prompt"])], *answers)


def test_system_texts_that_differ():
    rows = [
        {
            "prompt": row["prompt"],
            **{side: {"system": "be good", "text": row[side]} for side in ("chosen", "rejected")},
        }
        for row in clean(20)
    ]
    keys = {"tokenizer": bpe(template=CHATML), "formatter": Systems(Systems.Options())}
    assert not found(rows, "system texts that differ", **keys)
    rows[4]["rejected"]["system"] = "be bad"
    finding = only(rows, "system texts that differ", **keys)
    assert (finding.count, finding.rows, finding.severity) == (1, (4,), "serious")


def test_system_texts_that_a_formatter_refuses_are_named_among_the_rows_dropped():
    rows = [chat(row) for row in clean(20)]
    rows[4]["rejected"] = [{"role": "system", "content": "be bad"}, *rows[4]["rejected"]]
    finding = only(rows, "dropped rows", bpe(template=CHATML))
    assert "system turn" in finding.text
    assert finding.rows == (4,)


@pytest.mark.parametrize(("longer", "other"), [("chosen", "rejected"), ("rejected", "chosen")])
def test_length_bias_says_which_side_is_longer_how_often_and_how_telling_that_is(longer, other):
    rows = clean(60)
    for number in range(45):
        rows[number] |= {longer: "long " * 30 + str(number), other: f"short {number}"}
    for number in range(45, 60):
        rows[number] |= {longer: f"this that {number}", other: f"that this {number}"}
    finding = only(rows, "length bias")
    assert f"the {longer} answer is the longer one in 75.0 % of the pairs" in finding.text
    assert finding.accuracy == pytest.approx(0.875)  # in a quarter of the pairs it can only guess
    assert finding.severity == "serious"
    assert finding.rows == tuple(range(10))


#: What one side has in a test, and how the finding names it.
GIVEAWAYS = {
    "has a Markdown heading": "# Title\n{}",
    "has bold text": "{} **very** much",
    "has a bulleted list": "{}\n- one\n- two",
    "has a numbered list": "{}\n1. one\n2. two",
    "has a code block": "{}\n```\ncode\n```",
    "has a table": "{}\n| a | b |",
    "has a web address": "see https://example.org {}",
    "has an empty line": "{}\n\nmore.",
    "has a line break": "{}\nmore.",
    "has an exclamation mark": "Gladly! {}",
    "has an emoji": "{} \U0001f600.",
    "has a thinking section": "<think>hm</think>{}",
    "begins with white space": " {}",
    "ends with white space": "{} ",
    "begins with a small letter": None,
    "ends without punctuation": "{} and so on",
    "ends with a question": "{} right?",
    "refuses or apologises": "I'm sorry, but {}",
    "repeats the prompt": None,
    "is in another language than the prompt": None,
}


@pytest.mark.parametrize("name", GIVEAWAYS)
def test_a_giveaway_is_found_with_the_accuracy_that_it_gives(name):
    rows = clean(60)
    english, german = (
        "The answer is that it was with you and they have",
        "Die Antwort ist nicht das und auch auf der",
    )
    for number, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            row[side] = row[side].capitalize()
        if name == "is in another language than the prompt":
            row |= {"prompt": f"{english} {row['prompt']}", "chosen": f"{english} {number}."}
            row["rejected"] = f"{german if number < 45 else english} {number} x."
        elif name == "repeats the prompt":
            row["rejected"] = f"{row['rejected']} {row['prompt']}" if number < 45 else row["rejected"]
        elif name == "begins with a small letter":
            row["rejected"] = row["rejected"].lower() if number < 45 else row["rejected"]
        elif number < 45:
            row["rejected"] = GIVEAWAYS[name].format(row["rejected"])
    findings = {finding.text: finding for finding in found(rows, "giveaways")}
    text = f"the rejected answer {name} in 75.0 % of the pairs, the chosen one in 0.0 %"
    (finding,) = (finding for one, finding in findings.items() if one.startswith(text))
    assert finding.accuracy == pytest.approx(0.875)
    assert (finding.count, finding.rows) == (45, tuple(range(10)))


def test_every_rule_has_a_test():
    from dpotrain.data.inspection.rules import RULES

    assert [rule.name for rule in RULES] == list(GIVEAWAYS)


@pytest.mark.parametrize(
    ("where", "form"),
    [
        ("the first word", "{marker} {text}"),
        ("the first three words", "{marker} {text}"),
        ("the last word", "{text} {marker}."),
    ],
)
def test_words_that_tell_are_named_with_their_counts(where, form):
    rows = clean(200)
    for number, row in enumerate(rows):
        row["chosen"] = form.format(marker=f"Well{number % 4}", text=row["chosen"])
        row["rejected"] = form.format(marker=f"Sure{number % 4}", text=row["rejected"])
        if where == "the first three words":
            row["chosen"], row["rejected"] = (f"So it {row[side]}" for side in ("chosen", "rejected"))
    texts = [finding.text for finding in found(rows, "giveaways")]
    (text,) = (text for text in texts if text.startswith(f"by {where} alone"))
    assert "the answers are told apart in 100.0 % of the pairs" in text
    assert " 50 chosen, 0 rejected" in text or " 0 chosen, 50 rejected" in text


def test_a_finding_about_words_always_names_some():
    """Of many words that tell a little each, the one that tells most."""
    rows = clean(400)
    for number, row in enumerate(rows):
        row["chosen"] = f"c{number % 40} {row['chosen']}" if number % 3 else row["chosen"]
        row["rejected"] = f"r{number % 40} {row['rejected']}" if number % 3 else row["rejected"]
    (text,) = (
        each.text for each in found(rows, "giveaways") if each.text.startswith("by the first word alone")
    )
    assert re.search(r'of the pairs: "[cr]\d+" \d+ chosen, \d+ rejected', text)


def test_words_that_are_seen_once_tell_nothing():
    """An accuracy on the pairs that words were counted on would be perfect."""
    rows = clean(200)
    for number, row in enumerate(rows):
        row["chosen"], row["rejected"] = f"c{number} {row['chosen']}", f"r{number} {row['rejected']}"
    assert not found(rows, "giveaways")


def test_the_most_serious_finding_comes_first():
    rows = clean(100)
    rows[9] = rows[3]
    rows[10] = rows[4]
    rows[20] = rows[5] | {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    rows = [row | {"note": "text"} for row in rows]
    severities = [finding.severity for finding in inspected(rows).findings]
    assert severities == sorted(severities, key=["serious", "warning", "note"].index)
    assert set(severities) == {"serious", "warning", "note"}


def test_the_json_of_an_inspection_is_plain_data():
    rows = clean(20)
    rows[9] = rows[3]
    plain = inspected(rows, eval_fraction=0.2).as_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["findings"][0]["earlier_rows"] == [3]
    assert plain["splits"]["train"]["read_columns"] == ["prompt", "chosen", "rejected"]


odd = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["", " ", "\n", "\ud800", "yes", "Yes", "<|im_end|>", "犬"]
)


@settings(max_examples=40)
@given(st.lists(st.tuples(odd, odd, odd), min_size=1, max_size=8), st.booleans(), st.integers(2, 60))
def test_rows_of_any_texts_are_inspected(texts, conversations, most):
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in texts]
    if conversations:
        rows = [chat(row) for row in rows]
    cls = ConversationalFormatter if conversations else StandardFormatter
    inspection = inspected(rows, bpe(template=CHATML), formatter=cls(cls.Options()), max_length=most)
    assert json.loads(json.dumps(inspection.as_json())) == inspection.as_json()
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    print_inspection(inspection, console)
