"""Variables of a chat template: those of ``[data]``, and before them those of the row."""

import inspect
import json

import pytest
from transformers import PreTrainedTokenizerBase

from dpotrain.core.errors import RecipeError
from dpotrain.core.pair import PreferencePair
from dpotrain.core.template_arguments import TAKEN
from dpotrain.data.inspection.row_view import row_view
from dpotrain.data.prepare import PreparedData
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.recipe.mixture import SourceTable
from tests.data.families import FAMILIES
from tests.data.inspection.inspecting import found, reader
from tests.data.preparing import everything, prepare, row
from tests.data.tokenizers_for_tests import CHATML, assistant, bpe, user

#: Says its mood in the first turn, and with ``brief`` leaves out every answer.
MOODY = "{% if mood %}[{{ mood }}]{% endif %}" + CHATML.replace(
    "{{ m['content'] }}", "{% if not (brief and m['role'] == 'assistant') %}{{ m['content'] }}{% endif %}"
)
UNREAD = 'the chat template does not read "{}" of template_arguments'


def chat(number: int, **columns) -> dict:
    pair = {"chosen": [assistant(f"yes {number}")], "rejected": [assistant("no")]}
    return {"prompt": [user(f"hi {number}")], **pair, **columns}


def prompts(prepared: PreparedData, tokenizer) -> list[str]:
    """The prompts as rendered, up to the first turn."""
    texts = (tokenizer.decode(prepared.train[index].prompt) for index in range(len(prepared.train)))
    return [text.partition("<|im_start|>")[0] for text in texts]


VALUES = [
    ({"mood": "sad"}, "[sad]"),
    ('{"mood": "sad"}', "[sad]"),
    (None, "[calm]"),
    ("", "[calm]"),
    ("null", "[calm]"),
    ({}, "[calm]"),
    ({"mood": None}, "[calm]"),
    ({"mood": ""}, ""),
    ('{"mood": null, "brief": false}', "[calm]"),
]


@pytest.mark.parametrize("column", ["template_arguments", "chat_template_kwargs", "kwargs"])
def test_a_row_s_variables_come_before_the_recipe_s(recipe, column):
    rows = [chat(number, **{column: value}) for number, (value, _) in enumerate(VALUES)]
    rows = [json.loads(json.dumps(each)) for each in rows]
    tokenizer = bpe(template=MOODY)
    columns = {"template_arguments": "kwargs"} if column == "kwargs" else {}
    prepared, shown = prepare(recipe(rows, template_arguments={"mood": "calm"}, columns=columns), tokenizer)
    assert prompts(prepared, tokenizer) == [text for _, text in VALUES]
    assert not shown.warnings
    assert not prepared.report.splits["train"].unused_columns


def test_each_source_of_a_mixture_has_its_own_before_the_shared_ones(recipe, tmp_path):
    splits = {"one": [chat(0), chat(1)], "two": [chat(2), chat(3, chat_template_kwargs={"mood": "mad"})]}
    made = recipe(splits, template_arguments={"mood": "calm"})
    tables = [
        SourceTable.model_construct(source=made.source, label=name, split=name, template_arguments=own)
        for name, own in (("one", {}), ("two", {"mood": "sad"}))
    ]
    made.data = made.data.model_copy(update={"sources": tables})
    tokenizer = bpe(template=MOODY)
    for _ in range(2):
        prepared, _ = prepare(made, tokenizer, cache=tmp_path / "cache")
        assert prompts(prepared, tokenizer) == ["[calm]", "[calm]", "[sad]", "[mad]"]
    tables[1] = tables[1].model_copy(update={"template_arguments": {"moody": 1}})
    with pytest.raises(
        RecipeError, match=r"^data\.sources\.1\.template_arguments\.moody: the chat template does"
    ):
        prepare(made, tokenizer)


def test_the_first_column_that_holds_some_is_read(recipe):
    rows = [
        chat(0, template_arguments={"mood": "sad"}, chat_template_kwargs={"mood": "glad"}),
        chat(1, template_arguments={"mood": None}, chat_template_kwargs={"mood": "glad"}),
    ]
    tokenizer = bpe(template=MOODY)
    prepared, _ = prepare(recipe(rows), tokenizer)
    assert prompts(prepared, tokenizer) == ["[sad]", "[glad]"]
    assert prepared.report.splits["train"].unused_columns == {"chat_template_kwargs": 1}


def test_a_column_that_is_ignored_is_not_read(recipe):
    rows = [chat(number, chat_template_kwargs={"mood": "sad"}) for number in range(3)]
    tokenizer = bpe(template=MOODY)
    prepared, _ = prepare(recipe(rows, ignore_columns=["chat_template_kwargs"]), tokenizer)
    assert prompts(prepared, tokenizer) == [""] * 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("thinking", "chat_template_kwargs is neither an object nor JSON text of one"),
        ("[1]", "chat_template_kwargs is neither an object nor JSON text of one"),
        (3, "chat_template_kwargs is neither an object nor JSON text of one"),
        (True, "chat_template_kwargs is neither an object nor JSON text of one"),
        ('{"tools": []}', 'chat_template_kwargs sets "tools", which every pair has of its own'),
        (
            '{"add_generation_prompt": false}',
            'chat_template_kwargs sets "add_generation_prompt", which every',
        ),
        ("[" * 5000, "chat_template_kwargs is neither an object nor JSON text of one"),
    ],
)
def test_a_row_with_anything_else_is_dropped_by_that_reason(recipe, value, reason):
    rows = [chat(0), chat(1, chat_template_kwargs=value)]
    prepared, _ = prepare(recipe({"train": rows}), bpe(template=MOODY))
    ((dropped, counted),) = prepared.report.splits["train"].dropped.items()
    assert dropped.startswith(reason)
    assert counted.first_rows == [1]


def test_a_variable_that_is_nested_too_deeply_drops_the_pair():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    pair = PreferencePair(
        [user("hi")], [assistant("yes")], [assistant("no")], template_arguments={"mood": deep}
    )
    [result] = PairTokenizer(bpe(template=MOODY), Limits(100))([(0, pair)])
    assert result.reason == "the row is nested too deeply"


def test_a_variable_of_rows_that_the_template_does_not_read_is_warned_about_once(recipe):
    kwargs = {"enable_thinking": False, "python_tools": None, "xml_tools": [], "custom_instructions": ""}
    rows = [chat(number, chat_template_kwargs=kwargs | {"mood": "sad"}) for number in range(4)]
    tokenizer = bpe(template=MOODY)
    prepared, shown = prepare(recipe(rows), tokenizer)
    assert prompts(prepared, tokenizer) == ["[sad]"] * 4
    assert shown.warnings == [
        "rows of train set variables that the chat template does not read, so they change nothing: enable_thinking "
        "(4 pairs).\nSet model.chat_template to a template that reads them, if they should count."
    ]
    assert not any("enable_thinking" in line for line in prepared.report.summary_lines())
    (finding,) = found(rows, "left out by the chat template", tokenizer)
    assert (finding.severity, finding.count) == ("warning", 4)
    assert UNREAD.format("enable_thinking") in finding.text


def test_a_variable_of_the_recipe_that_the_template_does_not_read_is_refused(recipe):
    with pytest.raises(RecipeError) as caught:
        prepare(recipe([chat(0)], template_arguments={"moods": "calm"}), bpe(template=MOODY))
    assert str(caught.value) == (
        'data.template_arguments.moods: the chat template does not read it; did you mean "mood"?'
    )
    with pytest.raises(RecipeError, match="mood: the model has no chat template that could read it"):
        prepare(recipe([row(0)], template_arguments={"mood": "calm"}), bpe())


def test_what_a_template_leaves_out_is_judged_with_the_row_s_variables(recipe):
    rows = [chat(number, template_arguments={"brief": number % 2 == 1}) for number in range(6)]
    prepared, _ = prepare(recipe(rows), bpe(template=MOODY))
    assert prepared.train.rows.tolist() == [0, 2, 4]
    (reason,) = prepared.report.splits["train"].dropped
    assert reason == "the chat template leaves out part of the chosen answer (text)"


def test_how_a_template_takes_messages_is_found_out_with_the_row_s_variables(recipe):
    said = "{% if parts %}{{ m['content'][0]['text'] }}{% else %}{{ m['content'] }}{% endif %}"
    rows = [chat(number, template_arguments={"parts": number % 2 == 1}) for number in range(4)]
    tokenizer = bpe(template=CHATML.replace("{{ m['content'] }}", said))
    prepared, _ = prepare(recipe(rows), tokenizer)
    texts = [tokenizer.decode(prepared.train[number].prompt) for number in range(4)]
    assert texts == [
        f"<|im_start|>user\nhi {number}<|im_end|>\n<|im_start|>assistant\n" for number in range(4)
    ]


def test_a_control_token_in_a_row_s_variable_is_text(recipe):
    tokenizer = bpe(template=MOODY)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows = [
        chat(0, template_arguments={"mood": "sad<|im_end|>"}),
        chat(0, template_arguments={"mood": "sad"}),
    ]
    prepared, _ = prepare(recipe(rows), tokenizer)
    quoting, plain = (prepared.train[index].prompt.tolist() for index in range(2))
    assert quoting.count(end) == plain.count(end) == 1
    assert tokenizer.decode(quoting).startswith("[sad<|im_end|>]<|im_start|>user")


def test_plain_text_has_no_use_for_them_and_says_so(recipe):
    prepared, _ = prepare(recipe([row(0) | {"template_arguments": {"mood": "sad"}}]))
    assert list(prepared.report.splits["train"].notes) == [
        "template_arguments are not used: no chat template is applied to plain text"
    ]


def test_they_are_part_of_what_the_cache_finds(recipe, tmp_path):
    rows = [chat(number, chat_template_kwargs={"mood": "sad"} if number % 2 else None) for number in range(8)]
    tokenizer, cache = bpe(template=MOODY), tmp_path / "cache"
    for mood in ("calm", "glad"):
        for changed in (rows, [*rows[:-1], chat(7, chat_template_kwargs={"mood": "mad"})]):
            made = recipe(changed, template_arguments={"mood": mood})
            fresh, _ = prepare(made, tokenizer)
            for _ in range(2):
                cached, _ = prepare(made, tokenizer, cache=cache)
                assert everything(cached) == everything(fresh)
    assert len([path for path in (cache / "tokens").iterdir() if path.is_dir()]) == 4


def test_a_row_shows_what_the_template_was_given():
    rows = [chat(0, chat_template_kwargs={"mood": "sad", "unread": 1}), chat(1)]
    made = reader(rows, bpe(template=MOODY), template_arguments={"mood": "calm", "brief": False})
    given = [row_view(made, "train", number).pairs[0].template_arguments for number in range(2)]
    assert given == [{"mood": "sad", "brief": False}, {"mood": "calm", "brief": False}]
    assert row_view(made, "train", 0).as_json()["pairs"][0]["template_arguments"] == given[0]


def test_rows_think_or_do_not_by_their_own_variable_in_a_published_template(recipe):
    """As the preference sets of SmolLM 3 have them, with None where a row does not say."""
    kwargs = {"custom_instructions": "", "python_tools": None, "xml_tools": None}
    said = (True, False, None)
    rows = [
        chat(number, chat_template_kwargs=kwargs | {"enable_thinking": thinks})
        for number, thinks in enumerate(said)
    ]
    tokenizer = FAMILIES["Qwen 3"].tokenizer()
    prepared, _ = prepare(recipe(rows, template_arguments={"enable_thinking": False}), tokenizer)
    texts = [tokenizer.decode([*prepared.train[n].prompt, *prepared.train[n].chosen]) for n in range(3)]
    plain = [
        tokenizer.apply_chat_template(
            [*rows[n]["prompt"], *rows[n]["chosen"]], tokenize=False, enable_thinking=bool(said[n])
        )
        for n in range(3)
    ]
    assert texts == plain
    opened = [tokenizer.decode(prepared.train[n].prompt).endswith("</think>\n\n") for n in range(3)]
    assert opened == [False, True, True]


def test_the_names_that_are_taken_are_those_of_transformers():
    called = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    assert called - {"self", "kwargs", "processor_kwargs"} <= TAKEN
