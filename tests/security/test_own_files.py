"""Files of a run are its user's own, and links do not lead it astray."""

import os
import stat

import pytest

from dpotrain.core.atomic import remove_partial, write_text
from dpotrain.core.errors import RunError
from dpotrain.run.folder.restrict_umask import restrict_umask
from dpotrain.run.folder.run_folder import RunFolder


@pytest.fixture
def elsewhere(tmp_path):
    file = tmp_path / "elsewhere"
    file.write_text("somebody's")
    return file


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o644), (0o002, 0o644), (0o022, 0o644), (0o077, 0o600)])
def test_a_loose_umask_is_tightened_and_a_strict_one_kept(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        with restrict_umask():
            (tmp_path / "file").touch()
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.log", "nonfinite_pairs.jsonl"])
def test_a_link_in_the_place_of_a_file_that_is_appended_to_is_refused(name, tmp_path, elsewhere):
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.path / name).symlink_to(elsewhere)
    with pytest.raises(RunError, match=f"{name} is a link to .*elsewhere"):
        folder.begin(resume=True)
    assert elsewhere.read_text() == "somebody's"


def test_a_file_that_is_written_whole_takes_a_links_place(tmp_path, elsewhere):
    file = tmp_path / "summary.json"
    file.symlink_to(elsewhere)
    (tmp_path / f".summary.json.{os.getpid()}.partial").symlink_to(elsewhere)
    write_text(file, "mine")
    assert elsewhere.read_text() == "somebody's"
    assert not file.is_symlink()
    assert file.read_text() == "mine"


def test_sweeping_removes_a_link_and_not_what_it_leads_to(tmp_path):
    inside = tmp_path / "precious" / "file"
    inside.parent.mkdir()
    inside.touch()
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / ".final.1.old"
    link.symlink_to(inside.parent, target_is_directory=True)
    remove_partial(tmp_path / "run")
    assert inside.exists()
    assert not link.is_symlink()
