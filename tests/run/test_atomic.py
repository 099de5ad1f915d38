"""Files and folders are there whole or not at all."""

import pytest

from dpotrain.core.atomic import folder_aside, write_text


def test_a_folder_replaces_the_one_before_it(tmp_path):
    for text in ("one", "two"):
        with folder_aside(tmp_path / "final") as aside:
            (aside / "file").write_text(text)
    assert (tmp_path / "final" / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_failure_keeps_what_was_there(tmp_path):
    with folder_aside(tmp_path / "final") as aside:
        (aside / "file").write_text("one")

    def fail_half_way() -> None:
        with folder_aside(tmp_path / "final") as aside:
            (aside / "file").write_text("two")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (tmp_path / "final" / "file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_text_file_has_no_half_written_moment(tmp_path):
    write_text(tmp_path / "a.json", "one")
    write_text(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
