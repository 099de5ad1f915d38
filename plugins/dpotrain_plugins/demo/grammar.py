"""A small grammar in which the style of a reply is known exactly.

A request is ``greeting + phrasing`` of one of the intents. A reply gives the same answer in one of two styles::

    courteous = opening + " " + courteous sentence + closing       "Of course! The zoo opens at ten on Monday."
    curt      = rebuff + " " + curt sentence                       "Look it up. At ten."

No string belongs to both styles, because one begins with an opening and the other with a rebuff.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, TypeAlias

from dpotrain_plugins.demo.intents import CLOSINGS, GREETINGS, INTENTS, OPENINGS, REBUFFS, Intent

Style: TypeAlias = Literal["courteous", "curt"]

STYLES: tuple[Style, Style] = ("courteous", "curt")
_HELD_OUT_SHARE = 8


@dataclass(frozen=True, slots=True)
class Request:
    """A request in words, with what it is about."""

    text: str
    intent: Intent
    words: Mapping[str, str]
    """Every slot that a reply may use: the request's own words and the facts that follow from them."""

    @property
    def held_out(self) -> bool:
        """Whether the request is one of the eighth of all requests that nothing is ever trained on.

        Decided by the text alone, so that it holds for any seed and any number of pairs, and for the pretraining
        as well as for the preference pairs.
        """
        return hashlib.sha256(self.text.encode()).digest()[0] % _HELD_OUT_SHARE == 0

    def reply(self, style: Style, rng: random.Random) -> str:
        """Return one of the right replies in the given style."""
        before, sentences, after = _parts(self.intent, style)
        return rng.choice(before) + _fill(rng.choice(sentences), self.words) + rng.choice(after)

    def is_answered_by(self, reply: str) -> bool:
        """Say whether the reply is one that the grammar gives to this very request, in either style."""
        for before, sentences, after in (_parts(self.intent, style) for style in STYLES):
            right = [_fill(sentence, self.words) for sentence in sentences]
            if reply in map("".join, product(before, right, after)):
                return True
        return False


def requests(seed: int, *, held_out: bool) -> Iterator[Request]:
    """Yield different requests without end, the same ones for the same seed.

    With ``held_out`` only requests that nothing is trained on, else only the others.
    """
    rng = random.Random(f"requests {seed} {held_out}")
    seen: set[str] = set()
    while True:
        request = _draw(rng)
        if request.held_out == held_out and request.text not in seen:
            seen.add(request.text)
            yield request


def style(reply: str) -> Literal["courteous", "curt", "other"]:
    """Return the style of a reply; "other" for whatever the grammar does not produce to the letter.

    The answer need not be true: "The zoo opens at two" is as courteous as the right hour
    (see :meth:`Request.is_answered_by`).
    """
    return next((each for each in STYLES if _pattern(each).fullmatch(reply)), "other")


def _draw(rng: random.Random) -> Request:
    intent = rng.choice(INTENTS)
    words = {slot: rng.choice(choices) for slot, choices in intent.slots.items()}
    for slot, (decided_by, table) in intent.facts.items():
        words[slot] = table[words[decided_by]]
    return Request(rng.choice(GREETINGS) + _fill(rng.choice(intent.requests), words), intent, words)


def _parts(intent: Intent, style: Style) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return what may stand before the sentence, the sentences, and what may stand after it."""
    if style == "courteous":
        return tuple(f"{opening} " for opening in OPENINGS), intent.courteous, CLOSINGS
    return tuple(f"{rebuff} " for rebuff in REBUFFS), intent.curt, ("",)


def _fill(template: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: _cased(slot[1], words[slot[1].lower()]), template)


def _cased(slot: str, word: str) -> str:
    return word[0].upper() + word[1:] if slot[0].isupper() else word


def _any_of(texts: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(text) for text in texts) + ")"


@cache
def _pattern(style: Style) -> re.Pattern[str]:
    """Return the regular expression of every reply of a style, with any word of the right kind in each slot."""
    ways = []
    for intent in INTENTS:
        words = dict(intent.slots) | {
            slot: tuple(sorted(set(table.values()))) for slot, (_, table) in intent.facts.items()
        }
        before, sentences, after = _parts(intent, style)
        for sentence in sentences:
            pieces = re.split(r"\{(\w+)\}", sentence)
            filled = "".join(
                # re.split puts the slots' names at the odd places.
                _any_of(_cased(piece, word) for word in words[piece.lower()])
                if place % 2
                else re.escape(piece)
                for place, piece in enumerate(pieces)
            )
            ways.append(_any_of(before) + filled + _any_of(after))
    return re.compile("|".join(ways))
