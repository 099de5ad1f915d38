"""The grammar's styles are exact, and its replies answer what was asked."""

import itertools
import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain_plugins.demo.grammar import STYLES, Request, requests, style
from dpotrain_plugins.demo.intents import GREETINGS, INTENTS, OPENINGS, REBUFFS

seeds = st.integers(0, 2**32)
quick = settings(max_examples=30, deadline=None)


def _some(seed: int, count: int = 20, *, held_out: bool = False) -> list[Request]:
    return list(itertools.islice(requests(seed, held_out=held_out), count))


@quick
@given(seeds)
def test_every_reply_of_the_grammar_has_the_style_it_was_made_in(seed):
    rng = random.Random(seed)
    for request in _some(seed):
        for wanted in STYLES:
            assert style(request.reply(wanted, rng)) == wanted


@quick
@given(seeds)
def test_every_reply_answers_its_own_request(seed):
    rng = random.Random(seed)
    assert all(request.is_answered_by(request.reply(each, rng)) for request in _some(seed) for each in STYLES)


@quick
@given(seeds, st.data())
def test_a_reply_with_a_character_changed_is_of_no_style_or_still_of_the_grammar(seed, data):
    """A changed letter is "other" unless it lands on another word of the grammar, which changes no style."""
    (request,) = _some(seed, 1)
    wanted = data.draw(st.sampled_from(STYLES))
    reply = request.reply(wanted, random.Random(seed))
    at = data.draw(st.integers(0, len(reply) - 1))
    assert style(reply[:at] + "#" + reply[at + 1 :]) == "other"
    assert style(reply[:at] + reply[at + 1 :]) in ("other", wanted)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_garbage_has_no_style(text):
    assert style(text) == "other"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Of course!",
        "Of course! ",
        "Nine.",
        "Look it up. Nine",
        " Look it up. Nine.",
        "Look it up. Nine.\n",
        "Look it up. Nine. Happy to help.",
        "Of course! Nine.",
        "The library opens at nine on Monday. Happy to help.",
        "Of course! The library opens at nine on Monday. I am busy.",
        "Of course! The library opens at blue on Monday. Happy to help.",
        "of course! The library opens at nine on Monday. Happy to help.",
    ],
)
def test_mixtures_and_fragments_have_no_style(reply):
    assert style(reply) == "other"


def test_known_replies_have_the_style_a_reader_sees():
    assert style("Of course! The library opens at nine on Monday. Happy to help.") == "courteous"
    assert style("Look it up. Nine.") == "curt"


def test_no_opening_and_no_rebuff_begin_alike():
    assert not [rebuff for rebuff in REBUFFS if rebuff.split()[0] in {text.split()[0] for text in OPENINGS}]


def test_an_answer_to_another_request_is_not_an_answer():
    library = next(
        r for r in requests(0, held_out=False) if r.text == "When does the library open on Monday?"
    )
    assert library.is_answered_by("Of course! The library opens at nine on Monday. Happy to help.")
    assert library.is_answered_by("Look it up. Nine.")
    assert not library.is_answered_by("Look it up. Ten.")
    assert not library.is_answered_by("Of course! The library opens at nine on Friday. Happy to help.")


@quick
@given(seeds, st.booleans())
def test_requests_are_distinct_reproducible_and_on_their_side_of_the_split(seed, held_out):
    first, second = _some(seed, held_out=held_out), _some(seed, held_out=held_out)
    assert [request.text for request in first] == [request.text for request in second]
    assert len({request.text for request in first}) == len(first)
    assert all(request.held_out == held_out for request in first)


def test_there_are_hundreds_of_thousands_of_requests():
    counted = 0
    for intent in INTENTS:
        for phrasing in intent.requests:
            slots = {slot.lower() for slot in re.findall(r"\{(\w+)\}", phrasing)}
            counted += len(GREETINGS) * math.prod(len(intent.slots[slot]) for slot in slots)
    assert counted > 200_000
    assert len({request.text for request in _some(5, 20_000)}) == 20_000


def test_about_an_eighth_of_all_requests_is_held_out():
    texts = [Request(f"request {number}", INTENTS[0], {}) for number in range(4000)]
    assert 0.11 < sum(text.held_out for text in texts) / len(texts) < 0.14
