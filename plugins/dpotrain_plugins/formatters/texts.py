"""Text answers that repeat the prompt."""

from __future__ import annotations

import re

from dpotrain.plugin.api import UnusableRow

#: A prompt of fewer words is what an answer may well begin with ("Hello" and "Hello there").
_FEWEST_WORDS = 3


def without_repeated_prompt(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return prompt and answers, the answers without the prompt where both begin with it.

    The prompt is compared word by word, so that a trailing space or another line break makes no difference, and counts
    as repeated from three words on. Raises UnusableRow where one answer alone begins with the prompt, and where nothing
    follows it.
    """
    ends = [_end_of(prompt, answer) for answer in (chosen, rejected)]
    if not any(ends):
        return prompt, chosen, rejected
    first, second = ends
    if first is None or second is None:
        raise UnusableRow("only one of the answers begins with the prompt")
    if not chosen[first:].strip() or not rejected[second:].strip():
        raise UnusableRow("an answer is nothing but the prompt")
    # As it stands before the answer, white space included, unless the two answers differ in that.
    head = chosen[:first] if chosen[:first] == rejected[:second] else prompt
    return head, chosen[first:], rejected[second:]


def _end_of(prompt: str, answer: str) -> int | None:
    """Return where the prompt ends in an answer that begins with it."""
    words = prompt.split()
    if len(words) < _FEWEST_WORDS:
        return None
    last, place = len(words) - 1, -1
    for place, (word, found) in enumerate(zip(words, re.finditer(r"\S+", answer), strict=False)):
        if found.group() == word:
            end = found.end()
            continue
        # The answer may follow the prompt's last word without a space: "Answer:Paris".
        end = found.start() + len(word)
        if place < last or not found.group().startswith(word):
            return None
        return None if word[-1].isalnum() and answer[end].isalnum() else end
    return end if place == last else None
