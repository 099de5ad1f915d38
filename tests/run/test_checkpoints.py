"""Checkpoints are whole or not there, and come back exactly."""

import json

import pytest
import torch
from safetensors import SafetensorError

from dpotrain.core.errors import RunError
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.snapshot import Checkpoint, Snapshot


def trained_model(optimizer_class=torch.optim.AdamW):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    optimizer = optimizer_class(
        [
            {"params": list(model[0].parameters()), "weight_decay": 0.1},
            {"params": list(model[1].parameters())},
        ],
        lr=1e-2,
    )
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def write(folder, step, **state):
    model, optimizer = trained_model()
    checkpoint = Checkpoint(
        step, model.state_dict(), optimizer.state_dict(), state, {"a logger": {"seen": torch.arange(3)}}
    )
    return checkpoints.save(folder, Snapshot.of(checkpoint))


def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path):
    model, optimizer = trained_model()
    state = {"note": [1, 2.5, None]}
    checkpoint = Checkpoint(200, model.state_dict(), optimizer.state_dict(), state)
    path = checkpoints.save(tmp_path, Snapshot.of(checkpoint))
    assert path == tmp_path / "step-00000200"
    loaded = checkpoints.load(path)
    assert loaded.step == 200
    assert dict(loaded.state) == {"note": [1, 2.5, None]}
    assert all(torch.equal(tensor, loaded.trained[name]) for name, tensor in model.state_dict().items())

    fresh, fresh_optimizer = trained_model()
    fresh.load_state_dict(dict(loaded.trained))
    fresh_optimizer.load_state_dict(dict(loaded.optimizer))
    for each, stepper in ((model, optimizer), (fresh, fresh_optimizer)):
        each(torch.ones(3, 4)).square().sum().backward()
        stepper.step()
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def test_only_safetensors_and_json_are_written(tmp_path):
    path = write(tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == [
        "components.safetensors", "manifest.json", "optimizer.safetensors", "state.json", "trained.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("No space left on device")],
    ids=["OSError", "SafetensorError"],
)
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, error):
    """TRAPS: a checkpoint half written, then taken for the newest."""
    write(tmp_path, 1)

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(RunError, match=r"step-00000002: No space left on device.\nFree disk space"):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda path: path.unlink()], ids=["short", "flipped", "gone"]
)
@pytest.mark.parametrize(
    "name",
    ["trained.safetensors", "optimizer.safetensors", "components.safetensors", "state.json", "manifest.json"],
)
def test_a_damaged_checkpoint_is_named_and_the_sound_one_before_it_taken(tmp_path, damage, name):
    older, newer = write(tmp_path, 1), write(tmp_path, 2)
    if name == "manifest.json" and damage is flip:
        (newer / name).write_text("{")
    else:
        damage(newer / name)
    path, damaged = checkpoints.newest(tmp_path)
    assert path == older
    assert damaged.keys() == {newer}
    assert name in damaged[newer] or "manifest" in damaged[newer]
    checkpoints.quarantine(newer)
    checkpoints.prune(tmp_path, keep=1, but=set())
    assert checkpoints.complete(tmp_path) == [older]


def test_an_unfinished_folder_is_no_checkpoint(tmp_path):
    whole = write(tmp_path, 1)
    (tmp_path / ".step-00000002.99.partial").mkdir()
    assert checkpoints.newest(tmp_path) == (whole, {})
    assert checkpoints.newest(tmp_path / "nowhere") == (None, {})


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    """TRAPS: retention that deletes the best one."""
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, keep=2, but={2})
    assert [path.name for path in checkpoints.complete(tmp_path)] == [
        "step-00000002", "step-00000004", "step-00000005",
    ]  # fmt: skip


def test_another_format_is_refused(tmp_path):
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(RunError, match="another version"):
        checkpoints.load(path)
