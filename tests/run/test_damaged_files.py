"""Files of a run folder with anything in them: what they say is used or passed over, and nothing breaks on them."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dpotrain.run import checkpoints
from dpotrain.run.metrics_file import MetricsFile
from tests.run.test_checkpoints import write

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
NAMES = (
    "trained.safetensors",
    "optimizer.safetensors",
    "components.safetensors",
    "state.json",
    "manifest.json",
)
MANIFESTS = st.dictionaries(
    st.sampled_from(NAMES[:-1]), ANYTHING | st.fixed_dictionaries({"bytes": ANYTHING, "blake2b": ANYTHING})
)


@given(manifest=ANYTHING | MANIFESTS)
@settings(max_examples=1000)
def test_no_manifest_but_its_own_makes_a_checkpoint_sound(manifest, tmp_path_factory):
    path = _checkpoint(tmp_path_factory)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints.verify(path)
    assert checkpoints.newest(path.parent) == (None, {path: checkpoints.verify(path)})


@given(name=st.sampled_from(NAMES), place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=1000)
def test_a_flipped_bit_or_a_missing_end_is_found_in_every_file(name, place, bit, cut, tmp_path_factory):
    path = _checkpoint(tmp_path_factory)
    file = path / name
    whole = file.read_bytes()
    place %= len(whole)
    flipped = bytearray(whole)
    flipped[place] ^= 1 << bit
    file.write_bytes(whole[:place] if cut else bytes(flipped))
    try:
        fault = checkpoints.verify(path)
        # White space of the manifest says nothing.
        assert fault or _same_json(file, whole)
    finally:
        file.write_bytes(whole)


LINES = st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), ANYTHING)
RECORDS = st.builds(
    lambda step, loss: json.dumps({"kind": "train", "step": step, "loss": loss}).encode(),
    st.integers(0, 20),
    st.floats(-9, 9),
)


@given(lines=st.lists(LINES | RECORDS, max_size=8), step=st.integers(0, 20))
@settings(max_examples=1000)
def test_of_any_metrics_file_the_records_up_to_the_step_are_kept(lines, step, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + b'{"kind": "train", "st')
    MetricsFile(path).rewind(step)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(record["step"] <= step for record in kept)
    sound = [json.loads(line) for line in lines if line.startswith(b'{"kind": "train", "step"')]
    assert [record for record in kept if record.get("kind") == "train"] == [
        record for record in sound if record["step"] <= step
    ]


def _checkpoint(tmp_path_factory) -> Path:
    """Return a sound checkpoint, written once and mended by whoever changed its manifest."""
    folder = tmp_path_factory.getbasetemp() / "sound"
    path = checkpoints.path_of(folder, 1)
    if not path.exists():
        write(folder, 1)
        (folder.parent / "manifest.json").write_bytes((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes((folder.parent / "manifest.json").read_bytes())
    return path


def _same_json(file: Path, whole: bytes) -> bool:
    try:
        return json.loads(file.read_bytes()) == json.loads(whole)
    except ValueError:
        return False
