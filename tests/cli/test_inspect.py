"""``dpotrain inspect``: from a recipe to what is shown, exit codes, JSON; and what ``check`` says of the same."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from dpotrain.data.inspection import inspection as inspection_module
from dpotrain.data.inspection.findings import FINDERS
from tests.data.inspection.inspecting import clean
from tests.run.recipes import project
from tests.support import dpotrain

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def recipe(tmp_path):
    made = project(tmp_path)
    write(made, with_faults())
    return made


def with_faults() -> list[dict]:
    rows = clean(60)
    rows[9] = rows[3]
    rows[20] = rows[5] | {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    rows[30] |= {"chosen": ""}
    return rows


def write(recipe, rows) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (recipe.parent / "pairs.jsonl").write_text(lines, encoding="utf-8")


def inspect(recipe, *options: str):
    overrides = ("data.max_length=512", f"run.cache_dir={str(recipe.parent / 'cache')!r}")
    return dpotrain("inspect", str(recipe), *(word for one in overrides for word in ("--set", one)), *options)


def test_a_person_sees_how_rows_are_read_what_is_wrong_and_a_pair(recipe):
    result = inspect(recipe)
    assert result.exit_code == 0, result.output
    for text in (
        "60 read, 1 dropped",
        "warning  duplicates: 1 of 59 pairs (1.7 %) repeat an earlier pair exactly\n         row 9 (as 3)\n",
        "serious  contradictions: 1 of 59 pairs",
        "1 of 60 rows (1.7 %) dropped: chosen is empty\n         row 30\n",
        "not found: ",
        "scored   │ word",
    ):
        assert text in result.stdout
    assert not (recipe.parent / "run").exists()


def test_no_weights_are_read(recipe):
    (file,) = (recipe.parent / "model").glob("*.safetensors")
    file.write_bytes(b"no weights")
    assert inspect(recipe).exit_code == 0


def test_the_tokens_are_in_the_cache_for_the_run(recipe):
    first, second = inspect(recipe), inspect(recipe)
    assert "tokenizing: done 60/60" in first.stdout
    assert "tokenizing" not in second.stdout
    assert first.stdout.partition("\ntrain\n")[2] == second.stdout.partition("\ntrain\n")[2]


def test_a_row_is_shown_whole_or_with_the_reason_why_it_is_dropped(recipe):
    shown = inspect(recipe, "--row", "4")
    assert shown.exit_code == 0
    assert "row 4 of train\n" in shown.stdout
    assert clean(60)[4]["rejected"] in shown.stdout
    dropped = inspect(recipe, "--row", "30")
    assert dropped.exit_code == 0
    assert "row 30 of train: dropped: chosen is empty\n" in dropped.stdout
    assert "chosen: ''\n" in dropped.stdout


@pytest.mark.parametrize("row", ["60", "-1"])
def test_a_row_that_is_not_there_is_exit_2(recipe, row):
    result = inspect(recipe, "--row", row)
    assert result.exit_code == 2
    assert (
        f'error: There is no row {row}: split "train" has 60 rows, and the first is row 0.' in result.stderr
    )


def test_json_is_one_document_with_the_documented_keys(recipe):
    result = inspect(recipe, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {"format", "splits", "pairs", "findings", "nothing_of", "example"} <= set(found)
    (duplicates,) = (one for one in found["findings"] if one["kind"] == "duplicates")
    assert duplicates == {
        "kind": "duplicates",
        "severity": "warning",
        "split": "train",
        "text": "1 of 59 pairs (1.7 %) repeat an earlier pair exactly",
        "count": 1,
        "share": pytest.approx(1 / 59),
        "remedy": "Remove them: a pair that stands twice counts twice.",
        "rows": [9],
        "earlier_rows": [3],
    }
    train = found["splits"]["train"]
    assert {"rows_read", "dropped", "lengths", "histogram", "duplicates", "read_columns"} <= set(train)
    row = json.loads(inspect(recipe, "--json", "--row", "4").stdout)
    assert (row["split"], row["row"], row["dropped"]) == ("train", 4, [])
    pieces = row["pairs"][0]["chosen"]["pieces"]
    assert {"part", "special", "text", "tokens"} == set(pieces[0])


def test_every_kind_of_finding_is_documented():
    text = (ROOT / "recipes" / "inspect.md").read_text(encoding="utf-8")
    assert [
        finder.kind for finder in FINDERS if not re.search(rf"^\| {finder.kind}( \*)? \|", text, re.MULTILINE)
    ] == []


def test_the_keys_of_the_json_are_in_the_documentation(recipe):
    text = (ROOT / "recipes" / "inspect.md").read_text(encoding="utf-8")
    found = json.loads(inspect(recipe, "--json").stdout)
    row = json.loads(inspect(recipe, "--json", "--row", "4").stdout)
    pair = row["pairs"][0]
    keys = [
        *found,
        *found["splits"]["train"],
        *found["findings"][0],
        "accuracy",
        *row,
        *pair,
        *pair["chosen"]["pieces"][0],
    ]
    assert [key for key in dict.fromkeys(keys) if f"`{key}`" not in text] == []


def test_a_split_can_be_looked_at_alone(recipe):
    files = {"train": recipe.parent / "pairs.jsonl", "test": recipe.parent / "test.jsonl"}
    files["test"].write_text("".join(json.dumps(row) + "\n" for row in clean(8, seed=3)))
    name = json.dumps({split: str(path) for split, path in files.items()}).replace('":', '" =')
    both = ("--set", f"data.name={name}", "--set", 'data.eval_split="test"')
    recipe.write_text(recipe.read_text().replace("eval_fraction = 0.2\n", ""))
    result = inspect(recipe, *both, "--split", "test", "--json")
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(result.stdout)["splits"]) == ["test"]
    row = inspect(recipe, *both, "--split", "test", "--row", "7")
    assert "row 7 of test" in row.stdout
    assert inspect(recipe, *both, "--split", "test", "--row", "8").exit_code == 2
    assert list(json.loads(inspect(recipe, *both, "--json").stdout)["splits"]) == ["train", "test"]


def test_data_without_a_usable_pair_is_shown_and_is_exit_3(recipe):
    write(recipe, [row | {"chosen": ""} for row in clean(12)])
    result = inspect(recipe)
    assert result.exit_code == 3
    assert "serious  dropped rows: 12 of 12 rows (100.0 %) dropped: chosen is empty" in result.stdout
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …" in result.stdout
    assert 'error: No usable pair in split "train": all 12 rows were dropped.' in result.stderr
    assert inspect(recipe, "--row", "3").exit_code == 0


def test_data_that_is_not_there_is_exit_3_and_a_wrong_recipe_exit_2(recipe):
    (recipe.parent / "pairs.jsonl").unlink()
    assert inspect(recipe).exit_code == 3
    assert inspect(recipe, "--set", "data.max_lenght=3").exit_code == 2
    assert inspect(recipe.parent / "none.toml").exit_code == 2
    recipe.write_text(recipe.read_text().replace("[data]", "[other]"))
    result = inspect(recipe)
    assert result.exit_code == 2
    assert "[data]" in result.stderr


def test_ctrl_c_leaves_nothing_behind(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def interrupted(*arguments):
        assert list((tmp_path / "temporary").glob("dpotrain-*/*.npy"))
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection_module, "find_all", interrupted)
    result = inspect(recipe)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_check_says_what_it_finds_in_the_rows_that_it_looks_at(recipe):
    result = dpotrain("check", str(recipe), "--set", "data.max_length=512")
    assert result.exit_code == 0, result.output
    _, lines = result.stdout.split("findings in these rows: 3; dpotrain inspect looks at all rows\n")
    first, second, third = lines.splitlines()[:3]
    assert first.startswith("  serious: train: contradictions: 1 of 59 pairs (1.7 %) prefer the answer that")
    assert first.endswith(
        "(row 20 (as 5)). Remove one of each two, or check how chosen and rejected were assigned."
    )
    assert second.startswith("  warning: train: dropped rows: 1 of 60 rows")
    assert third.startswith("  warning: train: duplicates: 1 of 59 pairs")
    write(recipe, clean(60))
    result = dpotrain("check", str(recipe), "--set", "data.max_length=512")
    assert "findings in these rows: none; dpotrain inspect looks at all rows\n" in result.stdout
