"""The chat templates of model families: what is trained on is what the plain template writes, or is refused by name."""
# ruff: noqa: RUF001  # DeepSeek's tokens have wide bars

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dpotrain.core.pair import PreferencePair
from dpotrain.data.tokens.chat_template import TemplateInputs
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.render import REASONING_LEFT_OUT
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from tests.data.families import CLOCK, FAMILIES, Family
from tests.data.tokenizers_for_tests import user


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(city: str, text: str = "") -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": {"city": city, "days": 3, "unit": "°C"}}
    return answer(text, tool_calls=[{"id": "abcdefghi", "type": "function", "function": function}])


ASKED = [user("What is the weather in Paris?")]
SYSTEM = {"role": "system", "content": "Be brief."}
AGAIN = user("And tomorrow?")
RESULT = {"role": "tool", "content": 'sunny, "21"', "tool_call_id": "abcdefghi", "name": "get_weather"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}, "days": {"type": "string"}},
            "required": ["city"],
        },
    },
}
GUESS, NO_IDEA = "<think>\nA guess.\n</think>\n\nSunny.", "<think>\nNo idea.\n</think>\n\nRain."
TWO_CALLS = [{**call("Paris"), "tool_calls": [*call("Paris")["tool_calls"], *call("Nice")["tool_calls"]]}]

CONVERSATIONS = {
    "one turn": PreferencePair(ASKED, [answer("Sunny.")], [answer("Rain.")]),
    "many turns": PreferencePair([*ASKED, answer("Sunny."), AGAIN], [answer("Cold.")], [answer("Warm.")]),
    "system": PreferencePair([SYSTEM, *ASKED], [answer("Sunny.")], [answer("Rain.")]),
    "thinking": PreferencePair(
        ASKED,
        [answer("Sunny.", reasoning_content="A guess.")],
        [answer("Rain.", reasoning_content="No idea.")],
    ),
    "thinking in the text": PreferencePair(ASKED, [answer(GUESS)], [answer(NO_IDEA)]),
    "earlier thinking": PreferencePair(
        [*ASKED, answer("Sunny.", reasoning_content="A guess."), AGAIN], [answer("Cold.")], [answer("Warm.")]
    ),
    "tools": PreferencePair(ASKED, [answer("Sunny.")], [answer("Rain.")], [TOOL]),
    "tool call": PreferencePair(ASKED, [call("Paris")], [call("Nice")]),
    "tool call with text": PreferencePair(ASKED, [call("Paris", "I get_weather.")], [call("Nice", "Hm.")]),
    "two tool calls": PreferencePair(ASKED, TWO_CALLS, [call("Nice")]),
    "tool result": PreferencePair([*ASKED, call("Paris"), RESULT], [answer("Sunny.")], [answer("Rain.")]),
    "several turns in the answer": PreferencePair(
        ASKED, [answer("Sunny."), AGAIN, answer("Cold.")], [answer("Rain."), AGAIN, answer("Warm.")]
    ),
}


class Plainly:
    """An independent reading: whole conversations through the template, as transformers does it, and nothing else."""

    def __init__(self, family: Family) -> None:
        self.family, self.tokenizer = family, family.tokenizer()

    def __call__(self, messages: list[Mapping[str, Any]], tools: list[Any], *, opens: bool) -> list[int]:
        return self.tokenizer.apply_chat_template(
            [self.as_taken(message) for message in messages],
            tools=tools or None,
            chat_template=self.family.frozen,
            add_generation_prompt=opens,
            return_dict=False,
            **self.family.arguments,
        )

    def as_taken(self, message: Mapping[str, Any]) -> dict[str, Any]:
        message = json.loads(json.dumps(message).replace("reasoning_content", self.family.reasoning))
        for each in message.get("tool_calls", []) if self.family.calls_as_text else []:
            each["function"]["arguments"] = json.dumps(each["function"]["arguments"], ensure_ascii=False)
        return message

    def pair(self, pair: PreferencePair) -> tuple[list[int], list[int], list[int]]:
        """Return prompt, chosen and rejected: the prompt is all that the three renderings have in common."""
        prompt = self(pair.prompt, pair.tools, opens=True)
        wholes = [
            self([*pair.prompt, *side], pair.tools, opens=False) for side in (pair.chosen, pair.rejected)
        ]
        at = 0
        while at < len(prompt) and all(whole[at] == prompt[at] for whole in wholes):
            at += 1
        return prompt[:at], wholes[0][at:], wholes[1][at:]


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_the_plain_template_and_what_it_cannot_write_is_refused_by_name(name):
    family = FAMILIES[name]
    plainly = Plainly(family)
    tokenize = PairTokenizer(plainly.tokenizer, Limits(4000), TemplateInputs(family.arguments, CLOCK))
    results = tokenize(list(enumerate(CONVERSATIONS.values())))
    reasons = dict(zip(CONVERSATIONS, (result.reason for result in results), strict=True))
    assert {conversation: reason for conversation, reason in reasons.items() if reason} == family.refuses
    for pair, result in zip(CONVERSATIONS.values(), results, strict=True):
        if result.pair is None:
            continue
        ids = [part.tolist() for part in (result.pair.prompt, result.pair.chosen, result.pair.rejected)]
        assert ids == list(plainly.pair(pair))
        for side, tokens, flags in (
            (pair.chosen, result.pair.chosen, result.pair.chosen_scored),
            (pair.rejected, result.pair.rejected, result.pair.rejected_scored),
        ):
            if len(side) == 1:
                assert flags.all()
            said = plainly.tokenizer.decode(tokens[flags])
            assert AGAIN["content"] not in said
            assert side[-1]["content"].rpartition("\n")[2] in said
        # The model is taught to stop as its template stops.
        assert not result.open_ended


@pytest.mark.parametrize("name", ["Qwen 3", "gpt-oss", "DeepSeek R1", "Llama 3"])
def test_reasoning_of_earlier_turns_that_a_template_strips_is_reported_and_the_pair_kept(name):
    [result] = PairTokenizer(FAMILIES[name].tokenizer(), Limits(4000))(
        [(0, CONVERSATIONS["earlier thinking"])]
    )
    assert result.pair is not None
    assert result.notes == (REASONING_LEFT_OUT,)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("name", ["Qwen 3", "gpt-oss"])
def test_reasoning_is_written_under_whatever_name_the_row_has_it(name, key):
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    pair = PreferencePair(
        ASKED, [answer("Sunny.", **{key: "A guess."})], [answer("Rain.", **{key: "No idea."})]
    )
    [result] = PairTokenizer(tokenizer, Limits(4000), TemplateInputs(family.arguments, CLOCK))([(0, pair)])
    assert result.pair is not None, result.reason
    assert "A guess." in tokenizer.decode(result.pair.chosen)


def test_a_generation_prompt_that_the_answer_does_not_begin_with_moves_the_boundary_back_to_it():
    """DeepSeek R1 opens a thinking section in the prompt, and writes none in the answer."""
    family = FAMILIES["DeepSeek R1"]
    tokenizer = family.tokenizer()
    [result] = PairTokenizer(tokenizer, Limits(4000))([(0, CONVERSATIONS["one turn"])])
    assert result.boundary_moved
    assert tokenizer.decode(result.pair.prompt).endswith("in Paris?<｜Assistant｜>")
    assert tokenizer.decode(result.pair.chosen) == "Sunny.<｜end▁of▁sentence｜>"
    assert np.all(result.pair.chosen_scored)
