"""Held-out prompts: a seeded hash that nothing but the prompt and the seed decides."""

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.data.split import held_out
from dpotrain.data.tokens.keys import column, prompt_key

KEYS = st.lists(st.text(max_size=4).map(prompt_key), max_size=40)


@settings(max_examples=100, deadline=None)
@given(keys=KEYS, fraction=st.floats(0.01, 0.99), seed=st.integers(-5, 2**40))
def test_train_and_evaluation_never_share_a_prompt_and_neither_is_empty(keys, fraction, seed):
    evaluated = held_out(column(keys), fraction, seed)
    here = {key for key, held in zip(keys, evaluated, strict=True) if held}
    there = {key for key, held in zip(keys, evaluated, strict=True) if not held}
    assert not here & there
    assert evaluated.shape == (len(keys),)
    if len(set(keys)) > 1:
        assert here
        assert there
    else:
        assert not here


def test_a_prompt_stays_on_its_side_when_rows_are_added_or_reordered():
    keys = [prompt_key(f"prompt {i}") for i in range(500)]
    sides = dict(zip(keys, held_out(column(keys), 0.2, 42).tolist(), strict=True))
    more = [prompt_key(f"another {i}") for i in range(500)] + keys[::-1]
    again = dict(zip(more, held_out(column(more), 0.2, 42).tolist(), strict=True))
    assert {key: again[key] for key in keys} == sides


def test_share_is_about_the_fraction_and_another_seed_holds_out_others():
    keys = [prompt_key(f"prompt {i}") for i in range(2000)]
    one, two = held_out(column(keys), 0.1, 1), held_out(column(keys), 0.1, 2)
    assert 0.07 < one.mean() < 0.13
    assert not np.array_equal(one, two)


def test_split_is_the_same_in_every_process():
    code = (
        "from dpotrain.data.tokens.keys import column\n"
        "from dpotrain.data.split import held_out\n"
        "from dpotrain.data.tokens.keys import prompt_key\n"
        "keys = [prompt_key([{'role': 'user', 'content': str(i)}]) for i in range(64)]\n"
        "print(held_out(column(keys), 0.5, 7).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hashseed}, capture_output=True, check=True
        ).stdout
        for hashseed in ("1", "2")
    }
    keys = [prompt_key([{"content": str(i), "role": "user"}]) for i in range(64)]
    assert outputs == {f"{held_out(column(keys), 0.5, 7).tolist()}\n".encode()}


def test_white_space_and_the_order_of_keys_make_no_other_prompt():
    assert prompt_key("a  b\n") == prompt_key("a b")
    assert prompt_key([{"role": "user", "content": "a "}]) == prompt_key([{"content": "a", "role": "user"}])
    assert prompt_key("a b") != prompt_key("ab")
    assert prompt_key([{"role": "user", "content": "a"}]) != prompt_key([{"role": "system", "content": "a"}])
