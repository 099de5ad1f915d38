"""Statistics of figures that people compare."""

from __future__ import annotations

import math

#: The two-sided 95 % quantile of the normal distribution.
_Z95 = 1.959963984540054


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share of ``count`` independent trials.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, JASA 22(158). ``share``
    is between 0 and 1; a tie that counts half makes the interval slightly too wide. (nan, nan) without trials.
    """
    if not count > 0 or not math.isfinite(share):
        return math.nan, math.nan
    z2 = _Z95**2
    middle = share + z2 / (2 * count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    scale = 1 + z2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def sign_test(one: int, other: int) -> float:
    """Return the two-sided p-value of the exact sign test: of ``one + other`` fair coins, so uneven a split or worse.

    With the pairs that two policies answer differently it is McNemar's exact test. 1 without any.
    """
    trials = one + other
    term = total = 1  # binomial coefficients as integers: exact for any count
    for k in range(min(one, other)):
        term = term * (trials - k) // (k + 1)
        total += term
    p_value: float = 2 * total / 2**trials
    return min(1.0, p_value)
