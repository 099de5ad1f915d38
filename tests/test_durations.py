"""The order of the files of tests, and how long all of them may take, as recorded."""

from types import SimpleNamespace

from tests.durations import QUICK_SECONDS, longest_first, recorded


def items(*nodeids: str, soak: bool = False):
    return [SimpleNamespace(nodeid=nodeid, keywords={"soak"} if soak else set()) for nodeid in nodeids]


def test_the_longest_file_comes_first_and_one_without_a_record_before_it():
    durations = {"quick": {"short.py": 1, "long.py": 9}, "soak": {"short.py": 20}}
    quick = items("short.py::one", "short.py::two", "long.py::one", "new.py::one")
    longest_first(quick, durations)
    assert [item.nodeid for item in quick] == [
        "new.py::one",
        "long.py::one",
        "short.py::one",
        "short.py::two",
    ]
    both = [*items("long.py::one", "short.py::one"), *items("short.py::three", soak=True)]
    longest_first(both, durations)
    assert [item.nodeid for item in both] == ["short.py::one", "short.py::three", "long.py::one"]


def test_the_quick_part_stays_quick():
    """When this fails, mark the full matrices or the longest tests ``soak``; each promise keeps a quick test."""
    assert sum(recorded()["quick"].values()) <= QUICK_SECONDS
