"""Stored reference log-probs across runs: found where nothing changed, computed where anything that matters did."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from dpotrain import load_recipe, train
from dpotrain.core.reporter import SilentReporter
from dpotrain.engine.reference import stored as stored_reference
from dpotrain.engine.reference.store import RECORD, ReferenceStore, checksums
from tests.run.recipes import Recording, losses, project, run
from tests.support import tiny_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return project(tmp_path_factory.mktemp("stored"), adapter=True, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def store(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    computed = computed_by(recipe, folder, folder / "first")
    assert computed == 23
    return folder


def computed_by(recipe, store, output, *overrides) -> int:
    """Train one step and return how many pairs' log-probs were computed for the shared store."""
    computed: list[int] = []
    append = ReferenceStore.append

    def counting(self, keys, sums):
        if self.folder.parent == store:
            computed.append(len(keys))
        append(self, keys, sums)

    settings = [
        f"reference.store={str(store)!r}", 'reference.when="precomputed"', f"run.output_dir={str(output)!r}",
        "training.steps=1",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceStore, "append", counting)
        run(recipe, *settings, *overrides)
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
    assert computed_by(recipe, store, tmp_path / "run", *overrides) == 0


def test_the_same_weights_in_another_folder_find_them(recipe, store, tmp_path):
    tiny_checkpoint(tmp_path / "copy", hidden_size=64, intermediate_size=128)
    assert computed_by(recipe, store, tmp_path / "run", f"model.name={str(tmp_path / 'copy')!r}") == 0


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
def test_what_changes_the_numbers_changes_the_key(recipe, store, overrides, tmp_path, processor):
    """TRAPS: a cache key that forgets something that changes the numbers."""
    processor("with bfloat16")
    assert computed_by(recipe, store, tmp_path / "run", *overrides) == 23


def test_other_weights_change_the_key(recipe, store, tmp_path):
    tiny_checkpoint(tmp_path / "other", hidden_size=64, intermediate_size=128, initializer_range=0.1)
    assert computed_by(recipe, store, tmp_path / "run", f"model.name={str(tmp_path / 'other')!r}") == 23


def test_truncation_changes_only_the_pairs_it_cuts(recipe, store, tmp_path):
    assert 0 < computed_by(recipe, store, tmp_path / "run", "data.max_length=50") < 23


def shift(store, by=-10.0) -> None:
    """Change what is stored of all chosen answers, checksums and all."""
    for file in store.glob("*/*.pairs"):
        records = np.fromfile(file, RECORD)
        records["chosen"] += by
        records["check"] = checksums(records)
        records.tofile(file)


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(stored_reference, "CHECKED", 0)


def test_what_is_stored_is_used(recipe, tmp_path, unchecked):
    """TRAPS: stored reference log-probs accepted and then ignored."""
    recipe_without_check = ["reference.of=" + repr(str(recipe.parent / "model"))]
    computed_by(recipe, tmp_path / "store", tmp_path / "one", *recipe_without_check)
    assert losses(tmp_path / "one")[0] == pytest.approx(math.log(2), abs=1e-6)
    shift(tmp_path / "store")
    computed_by(recipe, tmp_path / "store", tmp_path / "two", *recipe_without_check)
    # The chosen answers now seem 10 nats likelier than under the reference: a margin of 1 at beta 0.1.
    assert losses(tmp_path / "two")[0] == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-5)


def settings(store, output, *overrides) -> list[str]:
    return [f"reference.store={str(store)!r}", f"run.output_dir={str(output)!r}", *overrides]


@pytest.mark.parametrize("of", ["initial", "another model"])
def test_records_that_differ_from_the_reference_are_quarantined_and_computed_again(recipe, of, tmp_path):
    store, more = tmp_path / "store", ['reference.when="precomputed"', "training.steps=1"]
    if of == "another model":
        more.append("reference.of=" + repr(str(recipe.parent / "model")))
    run(recipe, *settings(store, tmp_path / "one", *more))
    shift(store, -0.1)
    reporter = Recording()
    run(recipe, *settings(store, tmp_path / "two", *more), reporter=reporter)
    assert losses(tmp_path / "two")[0] == pytest.approx(math.log(2), abs=1e-6)
    (warning,) = [text for text in reporter.warnings if "reference log-probs" in text]
    assert f"stored in {store}" in warning
    assert "differs by 0.1 nats" in warning
    folders = sorted(path.name for path in store.iterdir())
    assert len(folders) == 2
    assert folders[1].startswith(f"{folders[0]}.off-")
    assert folders[1] in warning
    reporter = Recording()
    run(recipe, *settings(store, tmp_path / "three", *more), reporter=reporter)
    assert not reporter.warnings


def test_what_rounding_explains_is_used(recipe, tmp_path):
    store, more = tmp_path / "store", ['reference.when="precomputed"', "training.steps=1"]
    run(recipe, *settings(store, tmp_path / "one", *more))
    shift(store, -5e-4)
    reporter = Recording()
    run(recipe, *settings(store, tmp_path / "two", *more), reporter=reporter)
    assert not reporter.warnings


ONCE = ["training.epochs=1", "logging.every=1", "checkpoints.every=1"]


def test_what_one_epoch_with_an_adapter_computes_is_there_for_the_next_run(recipe, tmp_path, unchecked):
    store = tmp_path / "store"
    run(recipe, *settings(store, tmp_path / "one", *ONCE))
    records = np.concatenate([np.fromfile(file, RECORD) for file in store.glob("*/*.pairs")])
    assert len(records) == len({record.tobytes() for record in records["key"]}) == 23
    # A second run uses what it finds: a small change to that shows in its loss.
    shift(store, -1e-4)
    run(recipe, *settings(store, tmp_path / "two", *ONCE))
    one, two = losses(tmp_path / "one")[0], losses(tmp_path / "two")[0]
    assert one - two == pytest.approx(0.5 * 0.1 * 1e-4, rel=0.05)
    assert len(list(store.glob("*/*.pairs"))) == 1


def final(folder) -> bytes:
    (file,) = (folder / "final").glob("*.safetensors")
    return b"".join(weight.tobytes() for _, weight in sorted(load_file(file).items()))


@pytest.mark.parametrize(
    ("epochs", "found"),
    [
        (1, False),
        (2, True),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in ((1, True), (2, False))),
    ],
)
def test_a_resumed_run_uses_the_same_numbers_whatever_was_stored_since(
    recipe, found, epochs, tmp_path, unchecked
):
    """TRAPS: a cache that fills up between two attempts and changes the second one's last bits."""
    store = tmp_path / "store"
    steps = [f"training.epochs={epochs}", "logging.every=1", "checkpoints.every=1"]
    if found:
        run(recipe, *settings(store, tmp_path / "before", *steps))
        shift(store, -1e-3)
    apart = tmp_path / "apart"
    whole = settings(store if found else apart, tmp_path / "whole", *steps)
    run(recipe, *whole)
    mine = load_recipe(recipe, settings(store, tmp_path / "run", *steps))
    assert train(mine, reporter=Recording(stop_at=2)).status == "stopped"
    # Another run fills the store with other numbers meanwhile.
    filling = settings(store, tmp_path / "other", *steps, "optimizer.lr=1e-4")
    run(recipe, *filling)
    shift(store, -1e-3)
    assert train(mine, resume=True, reporter=SilentReporter()).status == "finished"
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert final(tmp_path / "run") == final(tmp_path / "whole")


@pytest.mark.soak
def test_what_two_processes_compute_is_there_for_one(recipe, forked, tmp_path):
    store = tmp_path / "store"
    done = forked.ranks(recipe, settings(store, tmp_path / "two", *ONCE))
    assert [ended.code for ended in done] == [0, 0], done
    files = [np.fromfile(file, RECORD) for file in store.glob("*/*.pairs")]
    assert len(files) == 2
    records = np.concatenate(files)
    assert len(records) == len({record.tobytes() for record in records["key"]}) == 23
    assert computed_by(recipe, store, tmp_path / "one", "training.epochs=1") == 0
    assert losses(tmp_path / "one")[0] == pytest.approx(math.log(2), abs=1e-6)


def test_without_a_cache_log_probs_stay_in_the_run_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = f"run.output_dir={str(tmp_path / 'run')!r}"
    run(recipe, output, "run.cache_dir=false", "training.steps=1")
    assert not (tmp_path / "cache").exists()
    (file,) = (tmp_path / "run" / "reference").glob("*/*.pairs")
    assert len(np.fromfile(file, RECORD)) == 23
