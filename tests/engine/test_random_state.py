"""Random states survive a checkpoint's JSON."""

import json
import random

import numpy as np
import torch

from dpotrain.core.random_state import RandomState
from dpotrain.run.checkpoint.snapshot import _plain


def draw():
    return random.random(), float(np.random.rand()), random.gauss(0, 1), torch.rand(2).tolist()


def test_every_generator_goes_on_where_it_was():
    torch.manual_seed(3)
    draw()
    text = json.dumps(RandomState.capture().as_json(), default=_plain)
    expected = [draw(), draw()]
    RandomState.from_json(json.loads(text)).restore()
    assert [draw(), draw()] == expected
