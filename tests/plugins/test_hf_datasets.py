"""Rows from files, folders, saved data sets and (as far as it goes without a network) the hub."""

import gzip
import json
import subprocess
import sys

import datasets
import pyarrow
import pytest
from pydantic import ValidationError

from dpotrain.core.errors import DataError, RecipeError
from dpotrain_plugins.hf_datasets import HFDatasetsSource

ROWS = [{"prompt": f"q{i}", "chosen": "a\nb", "rejected": "é"} for i in range(3)]


def source(name, **options) -> HFDatasetsSource:
    return HFDatasetsSource(
        HFDatasetsSource.Options(name=name if isinstance(name, list | dict) else str(name), **options)
    )


def rows(name, split="train", **options) -> list[dict]:
    loaded = source(name, **options).load(split)
    return [dict(loaded[i]) for i in range(len(loaded))]


def jsonl(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One data set in every form."""
    folder = tmp_path_factory.mktemp("made")
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(folder / "rows.parquet")
    data.to_csv(folder / "rows.csv", index=False)
    data.to_csv(folder / "rows.tsv", index=False, sep="\t")
    data.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(folder / "saved_splits")
    jsonl(folder / "rows.jsonl")
    write(folder / "array.json", json.dumps(ROWS, indent=2))
    write(folder / "inside.json", json.dumps({"data": ROWS}))
    jsonl(folder / "lines.json")
    write(folder / "array.jsonl", json.dumps(ROWS))
    for name in ("rows.jsonl", "lines.json", "array.json", "rows.csv", "rows.tsv"):
        plain = (folder / name).read_bytes()
        # Tools that append, or compress in blocks, write several streams into one file.
        (folder / f"{name}.gz").write_bytes(gzip.compress(plain[:9]) + gzip.compress(plain[9:]))
        (folder / f"{name}.zst").write_bytes(zstd(plain[:9]) + zstd(plain[9:]))
    (folder / "bom.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (folder / "rows.jsonl").read_bytes().replace(b"\n", b"\r\n\r\n")
    )
    return folder


@pytest.mark.parametrize("name", [
    "rows.parquet", "rows.csv", "rows.tsv", "rows.jsonl", "array.json", "inside.json", "lines.json",
    "array.jsonl", "bom.jsonl", "saved", "saved_splits", "rows.jsonl.gz", "rows.jsonl.zst", "lines.json.gz",
    "array.json.zst", "array.json.gz", "rows.csv.gz", "rows.csv.zst", "rows.tsv.gz", "rows.tsv.zst",
])  # fmt: skip
def test_every_form_gives_the_same_plain_rows(made, name):
    place = source(made / name)
    place.check()
    loaded = place.load("train")
    assert [dict(loaded[i]) for i in range(len(loaded))] == ROWS
    assert loaded.columns == ["prompt", "chosen", "rejected"]
    assert "train" in place.splits()


def test_saved_splits_are_there_by_name(made):
    place = source(made / "saved_splits")
    assert place.splits() == ["train", "test"]
    assert len(place.load("test")) == 1


def test_data_set_saved_with_a_tensor_format_gives_plain_values(tmp_path):
    datasets.Dataset.from_list([{"n": [1, 2]}]).with_format("numpy").save_to_disk(tmp_path / "saved")
    assert rows(tmp_path / "saved") == [{"n": [1, 2]}]


def test_globs_lists_and_tables_of_splits(tmp_path):
    one, two = jsonl(tmp_path / "a1.jsonl", ROWS[:1]), jsonl(tmp_path / "a2.jsonl", ROWS[1:])
    assert rows(tmp_path / "a*.jsonl") == ROWS
    assert rows([str(two), str(one)]) == ROWS[1:] + ROWS[:1]
    place = source({"train": str(one), "test": [str(two), str(one)]})
    assert place.splits() == ["train", "test"]
    assert len(place.load("test")) == 3


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["pairs.jsonl"], {"train": 1}),
        (["a.jsonl", "b.jsonl"], {"train": 2}),
        (["train.jsonl", "test.jsonl", "dev.jsonl"], {"validation": 1, "test": 1, "train": 1}),
        (["pairs.jsonl", "my_eval.jsonl"], {"train": 1, "test": 1}),
        (
            ["data/train_prefs-00000-of-00002.jsonl", "data/train_prefs-00001-of-00002.jsonl"],
            {"train_prefs": 2},
        ),
        (["train/x.jsonl", "test/x.jsonl"], {"train": 1, "test": 1}),
        (["train.jsonl", ".cache/test.jsonl", "dataset_info.json"], {"train": 1}),
    ],
)
def test_folder_of_files_has_the_splits_that_its_names_tell(tmp_path, files, splits):
    for name in files:
        jsonl(tmp_path / name, ROWS[:1])
    place = source(tmp_path)
    assert {split: len(place.load(split)) for split in place.splits()} == splits


def test_folder_with_configurations_is_read_by_its_card(tmp_path, monkeypatch):
    jsonl(tmp_path / "data/small.jsonl", ROWS[:1])
    jsonl(tmp_path / "data/large.jsonl", ROWS)
    write(
        tmp_path / "README.md",
        "---\nconfigs:\n- config_name: small\n  data_files: data/small.jsonl\n"
        "- config_name: large\n  data_files: data/large.jsonl\n---\n",
    )
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert rows(tmp_path, config="large") == ROWS
    with pytest.raises(DataError, match=r"(?s)small.*Choose one with data\.config"):
        rows(tmp_path, config="medium")


def test_rows_of_differing_shape_keep_their_own_keys_and_types(tmp_path):
    odd = [{"a": "text", "b": {"x": None}}, {"a": ["list"]}, {"c": 3}]
    path = jsonl(tmp_path / "odd.jsonl", odd)
    assert rows(path) == odd
    assert source(path).load("train").columns == ["a", "b", "c"]


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_keys_that_arrow_adds_to_a_struct_are_taken_away_again(form, tmp_path):
    """Arrow has one set of keys a column, and fills what a turn or a tool does not have with None."""
    calls = [{"name": "look", "arguments": {"at": "sky"}}, {"name": "wait", "arguments": {"hours": 2}}]
    ragged = [
        {"chosen": [{"role": "assistant", "tool_calls": calls}], "note": None},
        {"chosen": [{"role": "user", "content": "Hi", "tool_calls": []}, None], "note": "n"},
    ]
    data = datasets.Dataset.from_list(ragged)
    assert data[1]["chosen"][0].keys() == {"role", "content", "tool_calls"}
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "parquet.parquet")
    assert rows(tmp_path / {"saved": "saved", "parquet": "parquet.parquet"}[form]) == ragged


def test_nulls_that_were_written_into_a_column_of_json_stay(tmp_path):
    tools = [{"name": "look", "default": None}]
    features = datasets.Features({"tools": datasets.List(datasets.Json())})
    datasets.Dataset.from_dict({"tools": [tools]}, features=features).save_to_disk(tmp_path / "saved")
    assert rows(tmp_path / "saved") == [{"tools": tools}]


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("data", {"version": 1, "data": ROWS}),
        ("data.train", {"data": {"train": ROWS, "test": ROWS[:1]}, "license": "x"}),
        ("a.b.c", {"a.b": {"c": ROWS}, "a": {"x": [{"y": 1}]}}),
        ("rows", {"rows": ROWS}),
    ],
)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".json.zst"])
def test_rows_inside_a_document_are_found_by_their_field(field, document, ending, tmp_path):
    text = json.dumps(document).encode()
    path = tmp_path / f"nested{ending}"
    path.write_bytes(zstd(text) if ending.endswith("zst") else text)
    place = source(path, field=field)
    place.check()
    loaded = place.load("train")
    assert [dict(loaded[index]) for index in range(len(loaded))] == ROWS


def test_other_fields_of_one_file_have_other_fingerprints(tmp_path):
    path = write(tmp_path / "two.json", json.dumps({"a": ROWS, "b": ROWS}))
    one, two = (source(path, field=field).load("train").fingerprint for field in "ab")
    assert one != two


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": []}]


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ({"version": 1, "data": ROWS}, "data"),
        ({"data": {"train": ROWS, "test": ROWS}}, "data.train, data.test"),
        ({"meta": {"by": "me"}, "examples": ROWS, "notes": [{"x": 1}]}, "examples, notes"),
        ({"chosen": TURNS, "rejected": TURNS, "tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_a_document_with_lists_of_objects_is_not_taken_for_one_row(document, places, tmp_path):
    path = write(tmp_path / "doc.json", json.dumps(document, indent=1))
    with pytest.raises(DataError) as error:
        rows(path)
    assert f"{path} holds one object, with a list of objects at {places}.\n" in str(error.value)
    assert f'Set data.field = "{places.partition(",")[0]}"' in str(error.value)
    assert rows(write(path, json.dumps([document], indent=1))) == [document]


def test_a_document_of_objects_alone_is_not_taken_for_one_row(tmp_path):
    path = write(tmp_path / "doc.json", json.dumps({"0": ROWS[0], "1": ROWS[0]}))
    with pytest.raises(DataError, match=r"2 objects in it, and no list: which of them are rows is not clear"):
        rows(path)
    turn = {"role": "user", "content": "Hi"}
    assert rows(write(path, json.dumps({"chosen": turn, "rejected": turn}))) == [
        {"chosen": turn, "rejected": turn}
    ]


@pytest.mark.parametrize(
    "row", [{"chosen": TURNS, "rejected": TURNS}, {"messages": TURNS}, ROWS[0], {"a": {"b": [1]}}]
)
def test_a_document_that_is_one_row_is_one(row, tmp_path):
    assert rows(write(tmp_path / "one.json", json.dumps(row, indent=1))) == [row]


@pytest.mark.parametrize(
    ("name", "text", "field", "message"),
    [
        (
            "x.json",
            '{"data": [{"a": 1}]}',
            "dat",
            'the document in {path} has no key "dat"; did you mean "data"?',
        ),
        (
            "x.json",
            '{"data": {"train": []}}',
            "data.tests",
            'data in {path} has no key "tests"; it has train.',
        ),
        ("x.json", '{"data": [{"a": 1}]}', "data.train", 'data in {path} has no key "train": it is a list.'),
        (
            "x.json",
            '{"data": "no", "b": 1}',
            "data",
            "{path}, data holds text; a list of objects, one a row,",
        ),
        (
            "x.json",
            '{"data": [{"a": 1}, 3]}',
            "data",
            "{path}, data, row 1: a number where an object is expected.",
        ),
        ("x.jsonl", '{"a": 1}\n{"a": 2}\n', "a", "{path} holds an object a line, and data.field = "),
        ("x.json", '{"a": 1}\n{"a": 2}\n', "a", "{path} holds an object a line, and data.field = "),
    ],
)
def test_a_field_that_leads_to_no_rows_is_named(name, text, field, message, tmp_path):
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as error:
        rows(path, field=field)
    assert message.format(path=path) in str(error.value)


def test_csv_numbers_stay_the_text_they_were(tmp_path):
    path = write(tmp_path / "n.csv", 'prompt,chosen,rejected\n1,"007","1,5"\n')
    assert rows(path) == [{"prompt": "1", "chosen": "007", "rejected": "1,5"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_a_csv_file_is_read_by_the_delimiter_of_its_first_line(delimiter, tmp_path):
    lines = ["prompt", "chosen", "rejected"], ["what, then?", '"one; two|three\t"', "no"]
    lines[1][0] = f'"{lines[1][0]}"'
    path = write(tmp_path / "n.csv", "".join(delimiter.join(line) + "\n" for line in lines))
    rows = source(path).load("train")
    assert rows[0] == {"prompt": "what, then?", "chosen": "one; two|three\t", "rejected": "no"}


def test_a_delimiter_in_the_name_of_one_of_several_columns_is_part_of_the_name(tmp_path):
    path = write(tmp_path / "n.csv", "prompt;all,chosen,rejected\n1,2,3\n")
    assert source(path).load("train").columns == ["prompt;all", "chosen", "rejected"]


@pytest.mark.parametrize("kind", ["json", "parquet", "csv", "disk"])
def test_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path, kind):
    found = []
    for name, data in (("one", ROWS), ("copy", ROWS), ("other", ROWS[:2])):
        table, path = datasets.Dataset.from_list(data), tmp_path / f"{name}.{kind}"
        (table.save_to_disk if kind == "disk" else getattr(table, f"to_{kind}"))(path)
        found.append(source(path).load("train").fingerprint)
    one, copy, other = found
    assert one == copy != other


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.jsonl", '{"a": 1}\n\n{"a": \n{"a": 2}\n', "bad.jsonl, line 3: not valid JSON: Expecting value"),
        ("bad.json", '[\n {"a": 1},\n {"a" 2}\n]', "bad.json, line 3: not valid JSON: Expecting ':'"),
        ("list.jsonl", '{"a": 1}\n[1]\n', "list.jsonl, line 2: a list where an object is expected"),
        ("texts.json", '["a"]', "texts.json, row 0: text where an object is expected"),
        ("number.json", "3", "number.json holds a number; a list of objects"),
        ("none.jsonl", "", "none.jsonl is empty"),
        ("none.csv", "", "none.csv is empty"),
        ("wide.csv", "a,b\n1,2\n1,2,3\n", "wide.csv, line 3: more values than columns"),
        ("open.csv", 'a,b\n1,"2\n', "open.csv, line 2: unexpected end of data"),
        ("no.parquet", "text", "no.parquet is not a readable parquet file"),
        ("twice.csv", "a,b,a\n1,2,3\n", 'twice.csv, line 1: two columns are named "a"'),
        ("cut.jsonl.gz", "text", "cut.jsonl.gz is not a complete gzip file"),
        ("cut.csv.zst", "text", "cut.csv.zst is not a complete zstd file"),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path, name, text, message):
    with pytest.raises(DataError) as error:
        source(write(tmp_path / name, text)).load("train")
    assert message in str(error.value)


def test_text_that_is_not_utf8_is_named_with_the_line(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xe9"}\n')
    (tmp_path / "latin.csv").write_bytes(b"a,b\n1,\xe9\n")
    with pytest.raises(DataError, match=r"latin\.jsonl, line 2: not UTF-8"):
        rows(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match=r"latin\.csv, near line \d: not UTF-8"):
        rows(tmp_path / "latin.csv")


def test_a_missing_file_is_found_missing_before_anything_is_loaded_and_near_ones_are_named(tmp_path):
    jsonl(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError) as error:
        source(tmp_path / "pair.jsonl").check()
    assert error.value.exit_code == 3
    assert str(error.value) == (
        f'data.name: there is no file "{tmp_path}/pair.jsonl"; did you mean "pairs.jsonl"?'
    )
    with pytest.raises(DataError, match=r"The folder .*nowhere.* does not exist"):
        source(tmp_path / "nowhere" / "pairs.jsonl").check()
    with pytest.raises(DataError, match="no file matches"):
        source(tmp_path / "*.csv").check()
    with pytest.raises(DataError, match="no file"):
        source(["gone.jsonl"]).check()
    with pytest.raises(DataError, match="no file"):
        source({"train": "gone.jsonl"}).check()


@pytest.mark.parametrize("name", ["trl-lib/ultrafeedback_binarized", "imdb", "a/b.c-d"])
def test_a_hub_name_passes_the_check_without_a_network(name):
    source(name, config="x", revision="main").check()


@pytest.mark.parametrize("name", ["not a name", "-x/y", ""])
def test_what_is_neither_path_nor_hub_name_is_refused(name):
    with pytest.raises(DataError):
        source(name).check()


def test_files_of_unknown_kind_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="of no known kind"):
        source(write(tmp_path / "x.xlsx", "x")).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        source(tmp_path / "empty").check()
    with pytest.raises(DataError, match="is empty"):
        source([]).check()


def test_a_file_beside_its_compressed_copy_is_not_read_twice(tmp_path):
    plain = jsonl(tmp_path / "data" / "pairs.jsonl").read_bytes()
    (tmp_path / "data" / "pairs.jsonl.gz").write_bytes(gzip.compress(plain))
    for name in (tmp_path, tmp_path / "data" / "*"):
        with pytest.raises(
            DataError, match=r"holds pairs\.jsonl and pairs\.jsonl\.gz, and both would be read"
        ):
            source(name).check()
    assert len(rows(tmp_path / "data" / "pairs.jsonl.gz")) == len(ROWS)


def test_options_that_would_have_no_effect_are_refused(tmp_path):
    path = jsonl(tmp_path / "a.jsonl")
    with pytest.raises(RecipeError, match=r"data\.revision"):
        source(path, revision="main").check()
    with pytest.raises(RecipeError, match=r"data\.config"):
        source(path, config="x").check()
    table = write(tmp_path / "a.csv", "a\n1\n")
    for other in (table, [str(path), str(table)], "owner/name"):
        with pytest.raises(RecipeError, match=r'data\.field = "x" has a meaning for JSON files only'):
            source(other, field="x").check()
    with pytest.raises(ValidationError):
        HFDatasetsSource.Options(name="x", streaming=True)


def test_the_library_s_progress_bars_are_off_while_it_loads(tmp_path, capfd):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    capfd.readouterr()
    assert rows(tmp_path / "rows.parquet") == ROWS
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()


def test_an_unknown_split_lists_those_there_are(made):
    with pytest.raises(DataError) as error:
        source(made / "saved_splits").load("tets")
    assert str(error.value) == (
        f'{made / "saved_splits"} has no split "tets"; did you mean "test"?\n'
        "its splits are train, test; name one with data.train_split or data.eval_split"
    )


def test_a_hub_that_cannot_be_reached_is_a_message_with_a_remedy():
    code = (
        "from dpotrain.core.errors import DataError\n"
        "from dpotrain_plugins.hf_datasets import HFDatasetsSource as S\n"
        "try:\n    S(S.Options(name='nobody/nothing-like-this')).load('train')\n"
        "except DataError as error:\n    print(error)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "HF_HUB_OFFLINE": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'data.name = "nobody/nothing-like-this" could not be loaded' in out
    assert "HF_HUB_OFFLINE is set, and the data set is not in its cache" in out
    assert "Unset HF_HUB_OFFLINE, or set data.name to a folder or a file." in out
