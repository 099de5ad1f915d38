"""Robust DPO and EXO against numbers worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpotrain_plugins.losses import Dpo, Exo, Robust
from tests.plugins.losses.scoring import PAIR, rewards_of, value_of

quick = settings(max_examples=40, deadline=None)


def test_robust_by_hand():
    """(0.9 * 0.4740770 - 0.1 * 0.9740770) / 0.8 = 0.3292616 / 0.8, with the logistic losses of margins 0.5 and -0.5."""
    assert value_of(Robust, beta=0.1, label_smoothing=0.1) == pytest.approx(0.4115770, abs=1e-6)


def test_robust_without_flips_is_dpo():
    assert value_of(Robust, beta=0.3, label_smoothing=0) == pytest.approx(value_of(Dpo, beta=0.3), abs=1e-7)


@quick
@given(flips=st.floats(0, 0.45), beta=st.floats(0.01, 0.5))
def test_robust_is_dpo_on_average_over_flips(flips, beta):
    """The property that it was made for: (1 - e) * robust(pair) + e * robust(flipped pair) = dpo(pair)."""
    chosen, rejected, ref_chosen, ref_rejected = PAIR
    flipped = (rejected, chosen, ref_rejected, ref_chosen)
    expected = (1 - flips) * value_of(Robust, beta=beta, label_smoothing=flips)
    expected += flips * value_of(Robust, pair=flipped, beta=beta, label_smoothing=flips)
    assert expected == pytest.approx(value_of(Dpo, beta=beta), abs=1e-4)


def test_exo_by_hand():
    """p = sigmoid(0.5) = 0.6224593; p * (log p - log 0.9) = 0.6224593 * (-0.4740770 + 0.1053605) = -0.2295110.

    (1 - p) * (log(1 - p) - log 0.1) = 0.3775407 * (-0.9740770 + 2.3025851) = 0.5015659; together 0.2720549.
    """
    assert value_of(Exo, beta=0.1, label_smoothing=0.1) == pytest.approx(0.2720549, abs=1e-6)


def test_exo_is_zero_where_the_policy_gives_the_label():
    """log(0.9 / 0.1) = 2.1972246 is the margin at which p = 0.9; with beta 0.1 that is 21.972246 nats."""
    pair = (21.972246, 0.0, 0.0, 0.0)
    assert value_of(Exo, pair=pair, beta=0.1, label_smoothing=0.1) == pytest.approx(0, abs=1e-6)
    assert value_of(Exo, pair=(30.0, 0, 0, 0), beta=0.1, label_smoothing=0.1) > 0


@pytest.mark.parametrize("kind", [Robust, Exo])
def test_rewards_are_those_of_dpo(kind):
    assert rewards_of(kind, beta=0.5) == (1.0, -1.5)


@pytest.mark.parametrize(
    ("kind", "smoothing"), [(Robust, 0.5), (Robust, -0.1), (Exo, 0), (Exo, 0.5), (Exo, -0.1)]
)
def test_shares_of_flips_that_make_no_sense_are_refused(kind, smoothing):
    """At one half the robust loss divides by zero; without smoothing EXO's label has a probability of zero."""
    with pytest.raises(ValidationError, match="label_smoothing"):
        kind.Options(label_smoothing=smoothing)
