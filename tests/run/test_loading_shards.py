"""A policy that is to be sharded is loaded without the whole of it on every process, and is the same policy."""

import json
from pathlib import Path

import pytest
import torch

from tests.run.loading_by_hand import cases
from tests.support import tiny_checkpoint, tiny_model
from tests.torchrun import torchrun


@pytest.mark.parametrize(
    ("processes", "kind"),
    [
        (2, "llama"),
        pytest.param(4, "gpt2", marks=pytest.mark.soak),
        pytest.param(3, "mixtral", marks=pytest.mark.soak),
    ],
)
def test_every_way_to_load_gives_the_same_policy_and_result(processes, kind, tmp_path):
    out = tmp_path / "out"
    model = tiny_checkpoint(tmp_path / "model", kind)
    by_hand(processes, "same", model, out)
    for case in cases(model):
        files = [sorted((out / case / which).iterdir()) for which in ("alone", "sharded")]
        assert [file.name for file in files[0]] == [file.name for file in files[1]]
        for alone, sharded in zip(*files, strict=True):
            assert alone.read_bytes() == sharded.read_bytes(), (case, alone.name)


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_no_process_but_the_main_one_needs_memory_for_the_whole_model(tmp_path):
    """Its files are in bfloat16, and it is held in float32: what is converted is in memory."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "vocab_size": 8192}
    tiny_model(**sizes).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    by_hand(4, "memory", tmp_path / "model", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert max(found["files"]) < 0.6, found
    assert max(found["main process"][1:]) < 0.6, found
    assert found["main process"][0] > 0.9, found  # what is measured is what it says


def by_hand(processes: int, what: str, folder: Path, out: Path) -> None:
    torchrun(processes, "tests.run.loading_by_hand", what, str(folder), str(out))
