"""A checkpoint whose hashes are right and whose content no run wrote: refused by what it says, before it is read."""

import json
import shutil

import pytest
import torch

from dpotrain.core.errors import RunError
from dpotrain.run.checkpoint import files as checkpoints
from dpotrain.run.checkpoint.tensor_files import check_fits, described
from tests.fuzz.run_files import seal
from tests.run.recipes import project, run
from tests.run.test_checkpoints import write
from tests.security.hostile import promising, safetensors

WEIGHTS = {"w": torch.zeros(4, 8)}
SHAPES = [(4, 8)]
GOOD = promising(w=("F32", [4, 8], 128))
STATE = promising(
    **{"optimizer.state.0.exp_avg": ("F32", [4, 8], 128), "optimizer.state.0.step": ("F32", [], 4)}
)


def moments(name, *tensor):
    return promising(**{f"optimizer.state.{name}": tensor})


@pytest.mark.parametrize(
    "header",
    [
        promising(w=("F32", [2**58], 2**60)),
        promising(w=("F32", [2**62], 128)),
        promising(w=("F32", [4, 8], 64)),
        promising(w=("F99", [4, 8], 128)),
        {"w": {"dtype": "F32", "shape": [4, 8], "data_offsets": [-128, 0]}},
        {"w": {"dtype": "F32", "shape": [4, -8], "data_offsets": [0, 128]}},
        {"w": 3},
    ],
    ids=["more bytes than are there", "huge shape", "too few bytes", "no dtype", "outside", "negative", "none"],
)  # fmt: skip
def test_a_header_that_is_not_so_makes_a_checkpoint_damaged(header, tmp_path):
    path = write(tmp_path, 1)
    safetensors(path / "trained.safetensors", header, 128)
    seal(path)
    found, damaged = checkpoints.newest(tmp_path)
    assert found is None
    assert "trained.safetensors" in damaged[path]


def test_a_header_longer_than_its_file_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        described(file)


@pytest.mark.parametrize(
    ("trained", "optimizer", "size", "words"),
    [
        (promising(w=("F32", [2**38], 2**40)), STATE, 2**40, "the model: it holds w as F32 [274877906944]"),
        (promising(w=("F32", [8, 4], 128)), STATE, 128, "does not fit the model: it holds w as F32 [8, 4]"),
        (promising(w=("I64", [4, 8], 256)), STATE, 256, "does not fit the model: it holds w as I64 [4, 8]"),
        (promising(v=("F32", [4, 8], 128)), STATE, 128, "is of another model: 2 tensors"),
        (GOOD, moments("0.exp_avg", "F32", [8], 32), 128, "does not fit the optimizer"),
        (GOOD, moments("7.exp_avg", "F32", [4, 8], 128), 128, "does not fit the optimizer"),
        (GOOD, moments("0.x", "U8", [2**12], 2**12), 128, "does not fit the optimizer"),
        (GOOD, promising(x=("U8", [2**12], 2**12)), 128, "does not fit the optimizer"),
    ],
)
def test_tensors_that_the_run_has_no_place_for_are_refused_unread(trained, optimizer, size, words, tmp_path):
    """The first one is a terabyte that a sparse file really has: reading it would be the end of the machine."""
    safetensors(tmp_path / "trained.safetensors", trained, size)
    end = max(each["data_offsets"][1] for each in optimizer.values())
    safetensors(tmp_path / "optimizer.safetensors", optimizer, end)
    with pytest.raises(RunError) as caught:
        check_fits(tmp_path, WEIGHTS, SHAPES)
    assert words in str(caught.value)
    assert "Resume with the" in str(caught.value)


def test_what_a_run_saves_fits_it(tmp_path):
    safetensors(tmp_path / "trained.safetensors", GOOD, 128)
    safetensors(tmp_path / "optimizer.safetensors", STATE, 132)
    check_fits(tmp_path, WEIGHTS, SHAPES)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was stopped after its second step's checkpoint."""
    folder = tmp_path_factory.mktemp("begun")
    recipe = project(folder)
    run(recipe, "training.steps=2", "checkpoints.every=2", "run.cache_dir=false")
    return recipe


def resumed(recipe, tmp_path, change):
    """Go on with a copy of the run whose checkpoint was changed, and sealed again."""
    shutil.copytree(recipe.parent / "run", tmp_path / "run")
    [path] = checkpoints.complete(tmp_path / "run" / "checkpoints")
    change(path)
    seal(path)
    return run(recipe, "training.steps=3", "run.cache_dir=false", into=tmp_path / "run", resume=True)


def state(change):
    def rewrite(path):
        content = json.loads((path / "state.json").read_text())
        change(content)
        (path / "state.json").write_text(json.dumps(content))

    return rewrite


def transposed(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "trained.safetensors")
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = tensors[name].flatten()
    save_file(tensors, path / "trained.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (transposed, "does not fit the model"),
        (state(lambda content: content.update(random=[{}])), "what no run of this version writes (KeyError"),
        (state(lambda content: content["random"][0].update(torch_cpu="00")), "holds what no run"),
        (state(lambda content: content.update(optimizer={"items": [["state", {"tensor": "x"}]]})), "no run"),
        (state(lambda content: content["progress"].update(step="many")), "progress.step"),
        (state(lambda content: content.update(window=[])), "window"),
        (state(lambda content: content.update(step=7)), "another step than its folder"),
    ],
)
def test_a_run_is_told_what_is_wrong_with_it(begun, tmp_path, change, words):
    with pytest.raises(RunError) as caught:
        resumed(begun, tmp_path, change)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_an_honest_copy_goes_on(begun, tmp_path):
    assert resumed(begun, tmp_path, lambda path: None).steps == 3
