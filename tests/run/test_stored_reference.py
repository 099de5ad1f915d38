"""Stored reference log-probs across runs: found where nothing changed, computed where anything that matters did."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpotrain import load_recipe, train
from dpotrain.engine.reference_store import RECORD, ReferenceStore, _checksum
from dpotrain.run.reporter import SilentReporter
from tests.run.recipes import losses, project
from tests.support import tiny_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return project(tmp_path_factory.mktemp("stored"), adapter=True, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def store(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    computed = run(recipe, folder, folder / "first")
    assert computed == 23
    return folder


def run(recipe, store, output, *overrides) -> int:
    """Train one step and return how many pairs' log-probs were computed."""
    computed: list[int] = []
    append = ReferenceStore.append

    def counting(self, keys, sums):
        computed.append(len(keys))
        append(self, keys, sums)

    settings = [
        f"reference.store={str(store)!r}", 'reference.when="precomputed"', f"run.output_dir={str(output)!r}",
        "training.steps=1",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceStore, "append", counting)
        train(load_recipe(recipe, [*settings, *overrides]), reporter=SilentReporter())
    return sum(computed)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=1e-5", "loss.beta=0.3", "seed=8"],
        ["adapter.rank=8"],
        ["training.tokens_per_microbatch=50"],
        ["data.eval_fraction=0.5"],
    ],
    ids=["learning rate, beta, seed", "rank", "cut", "split"],
)
def test_a_second_run_finds_them(recipe, store, overrides, tmp_path):
    """TRAPS: a cache key that contains everything so that it never hits."""
    assert run(recipe, store, tmp_path / "run", *overrides) == 0


def test_the_same_weights_in_another_folder_find_them(recipe, store, tmp_path):
    tiny_checkpoint(tmp_path / "copy", hidden_size=64, intermediate_size=128)
    assert run(recipe, store, tmp_path / "run", f"model.name={str(tmp_path / 'copy')!r}") == 0


@pytest.mark.parametrize(
    "overrides",
    [
        ['training.precision="bf16"'],
        ['model.dtype="bfloat16"'],
        ['quantizer.use="bnb-4bit"'],
        ["adapter=false"],
    ],
    ids=["precision", "dtype", "quantizer", "merged"],
)
def test_what_changes_the_numbers_changes_the_key(recipe, store, overrides, tmp_path):
    """TRAPS: a cache key that forgets something that changes the numbers."""
    assert run(recipe, store, tmp_path / "run", *overrides) == 23


def test_other_weights_change_the_key(recipe, store, tmp_path):
    tiny_checkpoint(tmp_path / "other", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    assert run(recipe, store, tmp_path / "run", f"model.name={str(tmp_path / 'other')!r}") == 23


def test_truncation_changes_only_the_pairs_it_cuts(recipe, store, tmp_path):
    assert 0 < run(recipe, store, tmp_path / "run", "data.max_length=50") < 23


def test_what_is_stored_is_used(recipe, tmp_path):
    """TRAPS: stored reference log-probs accepted and then ignored."""
    recipe_without_check = ["reference.of=" + repr(str(recipe.parent / "model"))]
    run(recipe, tmp_path / "store", tmp_path / "one", *recipe_without_check)
    assert losses(tmp_path / "one")[0] == pytest.approx(math.log(2), abs=1e-6)
    (file,) = (tmp_path / "store").glob("*/*.pairs")
    records = np.fromfile(file, RECORD)
    records["chosen"] -= 10.0
    records["check"] = [_checksum(record) for record in records]
    records.tofile(file)
    run(recipe, tmp_path / "store", tmp_path / "two", *recipe_without_check)
    # The chosen answers now seem 10 nats likelier than under the reference: a margin of 1 at beta 0.1.
    assert losses(tmp_path / "two")[0] == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-5)
