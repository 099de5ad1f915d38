"""Text answers that repeat the prompt."""

from __future__ import annotations

import re
from itertools import takewhile

from dpotrain.plugin.api import UnusableRow

#: A prompt of fewer words, or of fewer letters where words are written without spaces, is what an answer may well begin
#: with ("Hello" and "Hello there"), unless it asks.
_FEWEST_WORDS, _FEWEST_LETTERS = 3, 8
_ASKS = ("?", "？", ":", "：")  # noqa: RUF001
_WRITTEN_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")


def without_repeated_prompt(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return prompt and answers, the answers without the prompt where both begin with it.

    The prompt is compared word by word, so that a trailing space or another line break makes no difference, and counts
    as repeated from three words on, or where it asks a question and both repeat it. Raises UnusableRow where one answer
    alone begins with the prompt, where nothing follows it, and where both begin with it in another form, such as a
    template's.
    """
    if not _is_telling(prompt):
        return prompt, chosen, rejected
    ends = [_end_of(prompt, answer) for answer in (chosen, rejected)]
    if not any(ends):
        if _holds(shared_beginning(chosen, rejected), prompt):
            raise UnusableRow("both answers begin with a text that holds the prompt")
        return prompt, chosen, rejected
    first, second = ends
    if first is None or second is None:
        if not _is_long(prompt):
            return prompt, chosen, rejected
        raise UnusableRow("only one of the answers begins with the prompt")
    if not chosen[first:].strip() or not rejected[second:].strip():
        raise UnusableRow("an answer is nothing but the prompt")
    # As it stands before the answer, white space included, unless the two answers differ in that.
    head = chosen[:first] if chosen[:first] == rejected[:second] else prompt
    return head, chosen[first:], rejected[second:]


def _end_of(prompt: str, answer: str) -> int | None:
    """Return where the prompt ends in an answer that begins with it."""
    words = prompt.split()
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


def _is_long(prompt: str) -> bool:
    """Whether an answer would hardly begin with the prompt by chance."""
    if len(prompt.split(maxsplit=_FEWEST_WORDS)) >= _FEWEST_WORDS:
        return True
    return len(_WRITTEN_WITHOUT_SPACES.findall(prompt)) >= _FEWEST_LETTERS


def _is_telling(prompt: str) -> bool:
    """Whether two answers that begin with the prompt repeat it."""
    return bool(prompt.strip()) and (_is_long(prompt) or prompt.rstrip().endswith(_ASKS))


def _holds(text: str, prompt: str) -> bool:
    """Whether every paragraph of the prompt stands in a text, whose last word may be cut."""
    cut = sum(1 for _ in takewhile(str.isalnum, reversed(text)))
    words = " ".join(text[: len(text) - cut].split())
    return all(" ".join(part.split()) in words for part in prompt.split("\n\n"))


def shared_beginning(first: str, second: str) -> str:
    """Return the characters that two texts begin with."""
    differs = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return first[: next(differs, min(len(first), len(second)))]
