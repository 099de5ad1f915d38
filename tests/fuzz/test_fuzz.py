"""A few of the cases that ``python -m tests.fuzz`` runs by the thousand."""

import pytest

from tests.fuzz.areas import AREAS, fuzz


@pytest.mark.parametrize("cases", [80, pytest.param(400, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", AREAS)
def test_whatever_comes_is_used_or_refused_in_a_few_lines(name, cases, tmp_path):
    area = AREAS[name]
    # The same cases every time: a failure is of the change that is tested.
    counts = fuzz(area, max(20, int(area.of_all * cases)), tmp_path, derandomize=True)
    assert counts.total()
