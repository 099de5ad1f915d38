"""Rules on one answer that may tell chosen from rejected answers: the table to which another is added."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as rules see it."""

    text: str
    prompt: str
    foreign: bool
    """Whether its language is known and is not the prompt's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that an answer has or has not."""

    name: str
    """What the answer does, as in "the rejected answer … more often"."""
    holds: Callable[[Answer], bool]


def _lines(pattern: str, needs: str) -> Callable[[Answer], bool]:
    """Return whether a line of the answer begins as the pattern says; only texts with one of ``needs`` are searched."""
    search = re.compile(pattern, re.MULTILINE).search
    return lambda answer: any(each in answer.text for each in needs) and search(answer.text) is not None


_REFUSAL = re.compile(
    r"\b(?:i(?:'|\u2019)?m sorry|i am sorry|i apologi[sz]e|i can(?:no|'|\u2019)t|i(?:'|\u2019)m (?:not able|unable)|"
    r"i am (?:not able|unable)|i won(?:'|\u2019)t|as an ai|as a language model|i do not have (?:access|personal)|"
    r"i don(?:'|\u2019)t have (?:access|personal))\b|抱歉|对不起|很遗憾|我无法|我不能|作为一个?(?:ai|人工智能|语言模型)"
)
_REFUSAL_WITHIN = 200  # characters: later in an answer, the same words are not a refusal
_EMOJI = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_CLOSING = frozenset(
    ".!?:;)]}>\"'`*|~\u2026\u201d\u2019"
    # Chinese and Japanese: full stop, then the wide ! ? : ; ) and closing brackets; Devanagari; Arabic.
    "\u3002\uff01\uff1f\uff1a\uff1b\uff09\u3011\u300b\u300d\u300f\u0964\u061f"
)
_LONG_PROMPT = 40  # characters: shorter ones stand in an answer by chance

RULES = (
    Rule("has a Markdown heading", _lines(r"^#{1,6} ", "#")),
    Rule("has bold text", lambda answer: "**" in answer.text),
    Rule("has a bulleted list", _lines(r"^\s*[-*•] ", "-*•")),
    Rule("has a numbered list", _lines(r"^\s*\d+[.)] ", ".)")),
    Rule("has a code block", lambda answer: "```" in answer.text),
    Rule("has a table", _lines(r"^\s*\|.*\|", "|")),
    Rule("has a web address", lambda answer: "://" in answer.text),
    Rule("has an empty line", lambda answer: "\n\n" in answer.text),
    Rule("has a line break", lambda answer: "\n" in answer.text),
    Rule("has an exclamation mark", lambda answer: "!" in answer.text or "\uff01" in answer.text),
    Rule("has an emoji", lambda answer: not answer.text.isascii() and _EMOJI.search(answer.text) is not None),
    Rule("has a thinking section", lambda answer: "<think>" in answer.text),
    Rule("begins with white space", lambda answer: answer.text[:1].isspace()),
    Rule("ends with white space", lambda answer: answer.text[-1:].isspace()),
    Rule("begins with a small letter", lambda answer: answer.text.lstrip()[:1].islower()),
    Rule("ends without punctuation", lambda answer: answer.text.rstrip()[-1:] not in _CLOSING),
    Rule("ends with a question", lambda answer: answer.text.rstrip()[-1:] in ("?", "\uff1f")),
    Rule(
        "refuses or apologises",
        lambda answer: _REFUSAL.search(answer.text[:_REFUSAL_WITHIN].lower()) is not None,
    ),
    Rule(
        "repeats the prompt",
        lambda answer: len(answer.prompt) >= _LONG_PROMPT and answer.prompt.strip() in answer.text,
    ),
    Rule("is in another language than the prompt", lambda answer: answer.foreign),
)


def marks(answer: Answer) -> int:
    """Return which rules hold, as bits in the order of :data:`RULES`."""
    return sum(rule.holds(answer) << place for place, rule in enumerate(RULES))
