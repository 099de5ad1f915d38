import math
from types import SimpleNamespace

import pytest
from dpotrain_patience import Patience

from dpotrain.plugin.api import Record
from dpotrain.testing import CallbackConformance


class TestPatience(CallbackConformance):
    component = Patience
    options = {"metric": "rewards/margins", "lowest": False, "evaluations": 5}


@pytest.mark.parametrize(
    ("options", "losses", "stops"),
    [
        ({}, [1.0, 0.9, 0.9, 0.95], 4),
        ({}, [1.0, 0.9, 1.0, 0.8, 0.8], None),
        ({"improvement": 0.2}, [1.0, 0.9, 0.85], 3),
        ({"lowest": False, "evaluations": 1}, [1.0, 1.1, 1.05], 3),
        ({}, [math.nan, 1.0, math.nan, 0.9], None),
    ],
)
def test_it_stops_after_so_many_evaluations_that_do_not_improve(options, losses, stops):
    asked, callback = [], Patience(Patience.Options(**options))
    for number, loss in enumerate(losses, 1):
        run = SimpleNamespace(log=lambda **values: None, stop=lambda reason, at=number: asked.append(at))
        callback.dpotrain_evaluated(run, Record("eval", number, {"loss": loss}))
    assert (asked or [None]) == [stops]
