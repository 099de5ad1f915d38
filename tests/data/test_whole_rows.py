"""Rows of which a part was once lost, read twice or taken for something else."""

import json

import pytest

from dpotrain.core.errors import DataError
from dpotrain.core.pair import UnusableRow
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.read_row import read_row
from dpotrain_plugins.formatters import dpotrain_dataset_formatters

CATALOGUE = dpotrain_dataset_formatters()
FORMATTERS = {cls.name: cls(cls.Options()) for cls in CATALOGUE}
ANSWERS = {"chosen": "Yes, it does.", "rejected": "No, never."}


class Rows(list):
    fingerprint = ""
    columns: list[str] = []  # noqa: RUF012


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(row, name=None):
    """Return the row's one pair, by the named formatter or the one that ``auto`` chooses."""
    formatter = FORMATTERS[name] if name else choose_formatter(Rows([row]), CATALOGUE, None, {}).formatter
    [pair] = read_row(formatter, row, 0).pairs
    return pair


# A column that nothing reads


@pytest.mark.parametrize("name", ["input", "Input", "system", "query"])
def test_words_of_an_answer_do_not_stand_in_for_a_column_that_is_not_read(name):
    row = {"prompt": "Repeat after me.", name: "the river", "chosen": "the river", "rejected": "a river"}
    with pytest.raises(UnusableRow, match=f'column "{name}" is not read'):
        read(row, "standard")


def test_a_part_of_a_word_does_not_stand_in_for_a_column_that_is_not_read():
    with pytest.raises(UnusableRow, match='column "system" is not read'):
        read({"prompt": "Is another one there?", "system": "no", **ANSWERS}, "standard")
    assert read({"prompt": "Q: what? A:", "question": "what?", **ANSWERS}, "standard").prompt == "Q: what? A:"


def test_a_conversation_in_another_form_is_not_a_column_that_is_lost():
    def call(arguments):
        return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}

    opening = [user("How far?"), call({"to": "Bonn"}), {"role": "tool", "content": "7"}]
    row = {
        "prompt": "How far?",
        "messages": json.dumps([opening[0], call('{"to": "Bonn"}'), opening[2], assistant("Seven.")]),
        "chosen": [*opening, assistant("Seven.")],
        "rejected": [*opening, assistant("Far.")],
    }
    assert read(row).chosen == [assistant("Seven.")]


# Dialogues in one string

DIALOGUES = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant: Yes.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant: No.",
}
TURNS = [user("Hi"), assistant("Hello"), user("Does it rain?")]


@pytest.mark.parametrize(
    "question",
    [
        {"prompt": "Does it rain?"},
        {"prompt": "Hi"},
        {"prompt": "\n\nHuman: Does it rain?"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Does it rain?\n\nAssistant:"},
        {"question": "Does it rain?"},
        {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "Does it rain?"}]},
    ],
)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_question_beside_dialogues_stands_once(question, system):
    pair = read({**question, **DIALOGUES, "system": system})
    assert pair.prompt == [*([{"role": "system", "content": system}] if system else []), *TURNS]
    assert (pair.chosen, pair.rejected) == ([assistant("Yes.")], [assistant("No.")])


def test_another_question_than_the_dialogues_is_refused():
    with pytest.raises(UnusableRow, match="prompt is none of the turns"):
        read({"prompt": "Does it snow?", **DIALOGUES})


@pytest.mark.parametrize("said", ["Assistant: ", "\n\nAssistant: "])
def test_a_dialogue_may_stand_in_two_columns(said):
    row = {"prompt": "\n\nHuman: Does it rain?\n\n", "chosen": f"{said}Yes.", "rejected": f"{said}No."}
    pair = read(row)
    assert pair.prompt == [user("Does it rain?")]
    assert (pair.chosen, pair.rejected) == ([assistant("Yes.")], [assistant("No.")])


def test_a_dialogue_beside_a_system_text_is_read_as_a_dialogue():
    row = {"system": "Be brief.", "prompt": "\n\nHuman: Does it rain?\n\nAssistant:", **ANSWERS}
    pair = read(row)
    assert [turn["content"] for turn in pair.prompt] == ["Be brief.", "Does it rain?"]


def test_an_answer_wrapped_in_an_object_breaks_no_formatter():
    row = {"chosen": "Q: why?\nSo.", "rejected": {"messages": "Q: why?\nNo."}}
    assert read(row).prompt == "Q: why?\n"


@pytest.mark.parametrize("times", [1, 2])
def test_answers_that_are_json_of_json_are_read_as_the_messages_that_they_are(times):
    chosen, rejected = [assistant("Yes.")], [assistant("No.")]
    for _ in range(times):
        chosen, rejected = json.dumps(chosen), json.dumps(rejected)
    pair = read({"prompt": "Does it rain?", "chosen": chosen, "rejected": rejected})
    assert (pair.prompt, pair.chosen) == ([user("Does it rain?")], [assistant("Yes.")])


def test_a_dialogue_beside_an_answer_that_is_none_is_refused():
    row = {
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "chosen": " Yes.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: No.",
    }
    with pytest.raises(UnusableRow, match="only one of the answers is a dialogue"):
        read(row)


# What stands in the prompt twice, or not at all


@pytest.mark.parametrize(
    "prompt", ["Does it rain today?", "Does it?", "Question:", "明天会下雨吗\uff1f", "请写一首关于春天的诗"]
)
@pytest.mark.parametrize("question", ["prompt", "question"])
def test_text_answers_that_begin_with_the_prompt_are_read_without_it(prompt, question):
    row = {question: prompt, "chosen": f"{prompt}\nYes.", "rejected": f"{prompt} \n No."}
    pair = read(row)
    texts = [
        part if isinstance(part, str) else part[-1]["content"]
        for part in (pair.prompt, pair.chosen, pair.rejected)
    ]
    assert [text.strip() for text in texts] == [prompt, "Yes.", "No."]


@pytest.mark.parametrize("prompt", ["Hello", "Hi!", "你好"])
def test_an_answer_may_begin_with_a_short_greeting(prompt):
    row = {"prompt": prompt, "chosen": f"{prompt} you.", "rejected": f"{prompt} there."}
    assert read(row).chosen == f"{prompt} you."


@pytest.mark.parametrize(
    "history", [[user("Hi"), assistant("Hello"), user("Rain?")], [user("Hi"), assistant("Hello")]]
)
@pytest.mark.parametrize("system", [{"system": "Be brief."}, {}])
@pytest.mark.parametrize(
    "asked", [{"prompt": "Rain?"}, {"prompt": [user("Rain?")]}, {"instruction": "Rain?"}]
)
def test_history_may_begin_with_the_system_text_and_end_with_the_question(history, system, asked):
    told = {"role": "system", "content": "Be brief."}
    pair = read({"history": [told, *history], **system, **asked, **ANSWERS})
    assert pair.prompt == [told, user("Hi"), assistant("Hello"), user("Rain?")]


@pytest.mark.parametrize("answer", ["None", "null", "[]", "{}", "none"])
def test_words_for_nothing_are_answers(answer):
    assert read({"prompt": "What is left?", "chosen": answer, "rejected": "Seven."}).chosen == answer
    row = {"instruction": "Sort this.", "input": answer, "chosen": answer, "rejected": "Seven."}
    assert read(row).prompt == [user(f"Sort this.\n\n{answer}")]


@pytest.mark.parametrize("name", ["system", "tools", "history", "prompt"])
@pytest.mark.parametrize("wrapped", ["prompt", "chosen"])
def test_what_stands_beside_wrapped_messages_is_not_lost(name, wrapped):
    row = {"prompt": [user("Rain?")], "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}
    row[wrapped] = {"messages": row[wrapped], name: [{"role": "system", "content": "Be brief."}], "id": "x"}
    with pytest.raises(UnusableRow, match=f"{wrapped} holds {name} beside its messages"):
        read(row, "conversational")


def test_what_stands_beside_the_messages_of_an_openai_file_is_not_lost():
    row = {
        "input": {"messages": [user("Rain?")], "instructions": "Be brief."},
        "preferred_output": [assistant("Yes.")],
        "non_preferred_output": [assistant("No.")],
    }
    with pytest.raises(UnusableRow, match="input holds instructions beside its messages"):
        read(row)


@pytest.mark.parametrize(
    ("more", "reason"), [({"value": "other"}, "both content and value"), ({"from": "gpt"}, "two speakers")]
)
def test_a_turn_that_says_two_things_is_refused(more, reason):
    with pytest.raises(UnusableRow, match=reason):
        read({"prompt": [user("Rain?", **more)], **ANSWERS}, "conversational")


def test_answers_that_end_in_a_labelled_line_hide_no_prompt_in_another_column():
    row = {
        "text": "How much is 2 + 2?",
        "chosen": "Let me think.\nAnswer: 4",
        "rejected": "Let me think.\nAnswer: 5",
    }
    with pytest.raises(DataError, match="No formatter recognises the data"):
        read(row)
    del row["text"]
    assert read(row).prompt == "Let me think.\nAnswer:"


def test_the_assistants_label_is_no_part_of_an_answer():
    pair = read({"chosen": "User: Rain?\nAssistant: Yes.", "rejected": "User: Rain?\nAssistant: No."})
    assert (pair.prompt, pair.chosen) == ("User: Rain?\nAssistant:", " Yes.")


@pytest.mark.parametrize("value", [["a.png"], [b"png"], {"bytes": b"png", "path": None}])
def test_rows_with_pictures_are_refused(value):
    row = {"images": value, "prompt": "What is this?", **ANSWERS}
    with pytest.raises(UnusableRow, match='column "images" is not text'):
        read(row, "standard")
    assert read({**row, "images": []}).prompt == "What is this?"


@pytest.mark.parametrize(("name", "known"), [("system_prompt", "system"), ("functions", "tools")])
def test_a_known_column_of_another_name_is_shown_as_the_one_to_map(name, known):
    with pytest.raises(DataError) as error:
        read({name: "Be brief.", "prompt": "Rain?", **ANSWERS})
    assert f'map the data\'s columns in [data.columns], as in {known} = "{name}".' in str(error.value)


@pytest.mark.parametrize(
    "template",
    [
        "Question: {}\nAnswer:",
        "[INST] {} [/INST]",
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        "USER: {} ASSISTANT:",
    ],
)
@pytest.mark.parametrize("asked", ["prompt", "question", "instruction"])
def test_answers_that_begin_with_the_prompt_in_a_template_are_refused(template, asked):
    opening = template.format("Does it rain today?")
    row = {asked: "Does it rain today?", "chosen": f"{opening} Yes.", "rejected": f"{opening} No."}
    with pytest.raises(UnusableRow, match="both answers begin with a text that holds the prompt"):
        read(row)


@pytest.mark.parametrize(
    "printed",
    [
        "[HumanMessage(content='{}'), AIMessage(content='Yes.')]",
        "ChatCompletionMessage(content='{}', role='assistant')",
    ],
)
def test_messages_as_a_library_prints_them_are_no_prose(printed):
    row = {"prompt": "Rain?", "chosen": printed.format("a"), "rejected": printed.format("b")}
    with pytest.raises(UnusableRow, match="text that looks like messages and is not JSON"):
        read(row, "standard")


def test_json_after_a_byte_order_mark_is_read():
    row = {
        "prompt": "Rain?",
        "chosen": "\ufeff" + json.dumps([assistant("Yes.")]),
        "rejected": json.dumps([assistant("No.")]),
    }
    assert read(row).chosen == [assistant("Yes.")]


def test_an_empty_prompt_beside_whole_conversations_says_nothing():
    row = {
        "prompt": "",
        "chosen": [user("Rain?"), assistant("Yes.")],
        "rejected": [user("Rain?"), assistant("No.")],
    }
    assert read(row).prompt == [user("Rain?")]


def test_a_column_of_unknown_meaning_that_repeats_the_answers_is_not_reported():
    row = {
        "prompt": "Does it rain?",
        **ANSWERS,
        "generations": list(ANSWERS.values()),
        "note": "from a forum",
    }
    assert read_row(FORMATTERS["standard"], row, 0).unused == ("note",)


def test_a_tool_that_is_named_in_one_column_only_stands_once():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    told, named = {"role": "tool", "content": "7"}, {"role": "tool", "content": "7", "name": "f"}
    opening = [user("How far?"), call]
    row = {"history": [*opening, told], "chosen": [*opening, named, assistant("Seven.")]}
    row["rejected"] = [*opening, told, assistant("Far.")]
    assert [turn["role"] for turn in read(row, "implicit-prompt").prompt] == ["user", "assistant", "tool"]


def test_answers_that_begin_with_instruction_and_input_in_a_template_are_refused():
    opening = "### Instruction:\nName the colour of this.\n\n### Input:\nthe sky\n\n### Response:\n"
    row = {
        "instruction": "Name the colour of this.",
        "input": "the sky",
        "chosen": f"{opening}Blue.",
        "rejected": f"{opening}Red.",
    }
    with pytest.raises(UnusableRow, match="both answers begin with a text that holds the prompt"):
        read(row)


def test_a_dialogue_as_prompt_beside_messages_is_read_as_one():
    row = {
        "prompt": "\n\nHuman: Rain?\n\nAssistant:",
        "chosen": [assistant("Yes.")],
        "rejected": [assistant("No.")],
    }
    assert read(row).prompt == [user("Rain?")]


PARTS = [{"type": "text", "text": "Rain?"}]


def test_parts_that_are_json_text_are_read_as_parts():
    assert read({"prompt": [user(json.dumps(PARTS))], **ANSWERS}).prompt == [user("Rain?")]
    with pytest.raises(UnusableRow, match="content of prompt is text that looks like parts and is not JSON"):
        read({"prompt": [user(str(PARTS))], **ANSWERS})
    asked = '[{"type": "object"}]'  # a schema that somebody asked for
    assert read({"prompt": [user("A schema?")], **ANSWERS, "chosen": asked}).chosen == [assistant(asked)]


@pytest.mark.parametrize("printed", ["({},)", "array([{}], dtype=object)", "[{}]", "{}"])
def test_messages_as_python_prints_them_are_no_prose(printed):
    row = {"prompt": "Rain?"}
    row |= {name: printed.replace("{}", str(assistant(text))) for name, text in ANSWERS.items()}
    with pytest.raises(UnusableRow, match="text that looks like messages and is not JSON"):
        read(row, "standard")


@pytest.mark.parametrize("tools", ["none", "null", "[]", " ", None])
def test_words_for_nothing_are_no_tools(tools):
    assert read({"prompt": [user("Rain?")], **ANSWERS, "tools": tools}).tools == []


def test_history_that_stands_in_the_conversations_stands_once():
    opening = [user("Hi"), assistant("Hello"), user("Rain?")]
    row = {"chosen": [*opening, assistant("Yes.")], "rejected": [*opening, assistant("No.")]}
    for history in (opening[:2], opening[1:2], opening[2:], opening):
        assert read({**row, "history": history}, "implicit-prompt").prompt == opening
    with pytest.raises(UnusableRow, match="history holds turns of the prompt"):
        read({**row, "history": [*opening, assistant("Yes.")]}, "implicit-prompt")
