"""A pair as the texts that are tokenized: the prompt alone, and the prompt with each answer.

Prompt and answer are one text, so that tokens that span the boundary come out as they do in free text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2

from dpotrain.core.errors import DataError
from dpotrain.core.pair import Message, PreferencePair, UnusableRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn inside a completion of several messages, located by three texts that should be prefixes."""

    before: str
    """Everything before the turn."""
    opened: str
    """The same with the template's generation prompt, after which the turn begins."""
    closed: str | None
    """Through the end of the turn; None for the last message, whose end is the end of the text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The prompt with one answer."""

    full: str
    turns: tuple[Turn, ...] | None = None
    """None where every token of the answer is the model's own."""

    def texts(self) -> Iterator[str]:
        """Yield every text of this answer that is tokenized."""
        yield self.full
        for turn in self.turns or ():
            yield turn.before
            yield turn.opened
            if turn.closed is not None:
                yield turn.closed


@dataclass(frozen=True, slots=True)
class Rendering:
    """The texts of one pair."""

    prompt: str
    chosen: Answer
    rejected: Answer
    plain: bool
    """Whether the tokenizer's own special tokens are added to the ids."""

    def texts(self) -> Iterator[str]:
        """Yield every text of the pair that is tokenized."""
        yield self.prompt
        yield from self.chosen.texts()
        yield from self.rejected.texts()


def render(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """Return the pair's texts.

    Raises UnusableRow where the chat template refuses the messages, and DataError for a conversation where the
    tokenizer has no chat template.
    """
    if isinstance(pair.prompt, str):
        assert isinstance(pair.chosen, str)
        assert isinstance(pair.rejected, str)
        chosen, rejected = Answer(pair.prompt + pair.chosen), Answer(pair.prompt + pair.rejected)
        return Rendering(pair.prompt, chosen, rejected, plain=True)
    assert not isinstance(pair.chosen, str)
    assert not isinstance(pair.rejected, str)
    template = _Template(tokenizer, pair)
    prompt = list(pair.prompt)
    # The generation prompt belongs to the prompt only where an assistant message follows.
    assistant_next = pair.chosen[0]["role"] == "assistant" and pair.rejected[0]["role"] == "assistant"
    return Rendering(
        template(prompt, opens=assistant_next),
        _answer(template, prompt, pair.chosen),
        _answer(template, prompt, pair.rejected),
        plain=False,
    )


def _answer(template: _Template, prompt: list[Message], answer: Sequence[Message]) -> Answer:
    full = template([*prompt, *answer], opens=False)
    if len(answer) == 1:
        return Answer(full)
    turns = []
    for index, message in enumerate(answer):
        if message["role"] != "assistant":
            continue
        before = [*prompt, *answer[:index]]
        last = index == len(answer) - 1
        closed = None if last else template([*before, message], opens=False)
        turns.append(Turn(template(before, opens=False), template(before, opens=True), closed))
    return Answer(full, tuple(turns))


class _Template:
    """The tokenizer's chat template, with the pair's tools."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pair: PreferencePair) -> None:
        if not tokenizer.chat_template:
            raise DataError(
                f"The pairs are conversations, but the tokenizer of {tokenizer.name_or_path or 'this model'} "
                "has no chat template.\n"
                "Set model.chat_template, train a model that has one, or use pairs of plain strings (data.format)."
            )
        self._tokenizer = tokenizer
        self._tools = [dict(tool) for tool in pair.tools] or None

    def __call__(self, messages: Sequence[Message], *, opens: bool) -> str:
        """Render the messages; ``opens`` adds the generation prompt."""
        try:
            texts, apply = [dict(message) for message in messages], self._tokenizer.apply_chat_template
            return str(apply(texts, tools=self._tools, add_generation_prompt=opens, tokenize=False))
        except Exception as error:  # a template is a program that may raise anything
            # A template's own text is the same for every row; Python's may quote a value, so only the class is kept.
            reason = str(error) if isinstance(error, jinja2.TemplateError) else type(error).__name__
            raise UnusableRow(f"the chat template refuses the messages: {reason}") from error
