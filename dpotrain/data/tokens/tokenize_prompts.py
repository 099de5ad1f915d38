"""Prompts to the token ids that the model answers: of a conversation with the template's generation prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dpotrain.core.errors import DataError, DpotrainError
from dpotrain.core.pair import PreferencePair, Text, UnusableRow
from dpotrain.data.tokens.chat_template import ChatTemplate, TemplateInputs, template_source
from dpotrain.data.tokens.control_tokens import UNREADABLE
from dpotrain.data.tokens.render import Renderer
from dpotrain.data.tokens.tokenize_pairs import leading_special_tokens, with_leading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Stands for the answer where a prompt is rendered, since a renderer takes pairs.
_ANSWER = ({"role": "assistant", "content": "."},)


class PromptTokenizer:
    """Tokenizes prompts as the pairs of a run are tokenized."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, inputs: TemplateInputs, *, conversational: bool
    ) -> None:
        """Take a text as a conversation of one user turn where ``conversational`` is set, else as it is."""
        self._tokenizer = tokenizer
        self._render = Renderer(tokenizer, inputs)
        self._conversational = conversational

    def __call__(self, prompt: Text) -> list[int]:
        """Return the ids of a prompt, at least one.

        Raises:
            DataError: the chat template refuses the messages, there is none, or there is no token.
        """
        if isinstance(prompt, str) and self._conversational:
            prompt = [{"role": "user", "content": prompt}]
        ids = self._plain(prompt) if isinstance(prompt, str) else self._messages(prompt)
        if not ids:
            raise DataError("the prompt has no token")
        return ids

    def _plain(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        leading = leading_special_tokens(self._tokenizer)
        return with_leading(np.array(ids, np.int32), leading).tolist()  # type: ignore[no-any-return]

    def _messages(self, messages: Text) -> list[int]:
        if not self._tokenizer.chat_template:
            raise DataError(
                f"the prompt is a conversation, but the tokenizer of {self._tokenizer.name_or_path or 'this model'} "
                "has no chat template.\nSet model.chat_template, or write the prompt as a text."
            )
        try:
            rendering = self._render(PreferencePair(messages, _ANSWER, _ANSWER))
        except UnusableRow as error:
            raise DataError(str(error)) from error
        if rendering.control is None:
            ids = self._tokenizer(rendering.prompt, add_special_tokens=False, verbose=False)["input_ids"]
            return list(ids)
        (quoting,) = rendering.control.encode([rendering.prompt])
        if quoting is None:
            raise DataError(UNREADABLE)
        return quoting


def turn_end(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> int | None:
    """Return the special or added token with which the chat template ends an answer; None where there is none.

    It need not be the tokenizer's EOS: where a base model is given a chat template, it is not.
    """
    try:
        source = template_source(tokenizer, tools=False)
        template = ChatTemplate(tokenizer, source, TemplateInputs(arguments))
        text = template([{"role": "user", "content": "x"}, *_ANSWER], (), opens=False)
    except (UnusableRow, DpotrainError):
        return None
    after = tokenizer(text[text.rfind(".") + 1 :], add_special_tokens=False, verbose=False)["input_ids"]
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((int(token) for token in after if token in control), None)
