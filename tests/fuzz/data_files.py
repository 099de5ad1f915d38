"""Files of rows, mutated and then damaged, through the source and everything behind it."""

import csv
import gzip
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dpotrain.core.errors import DataError, RecipeError
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from dpotrain.recipe.load import load_recipe
from dpotrain_plugins.hf_datasets.source import HFDatasetsSource
from tests.fuzz.junk import damage, mutate
from tests.fuzz.recipes import check_message
from tests.fuzz.rows import JUNK, THERE
from tests.support import tiny_tokenizer

RECIPE = """\
[run]
output_dir = "run"
[model]
use = "demo"
[data]
use = "hf-datasets"
name = "rows.jsonl"
max_length = 64
eval_fraction = 0.3
[loss]
use = "dpo"
[optimizer]
lr = 1e-3
"""

INSERTS = st.sampled_from(
    [
        b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"\n", b"\r\n", b'"', b"{", b"[" * 5000, b"9" * 5000,
        b'"\\ud800"', b"null\n", b",",
    ]
) | st.binary(max_size=6)  # fmt: skip


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read."""

    name: str
    content: bytes


@st.composite
def files(draw: st.DrawFn) -> File:
    row = draw(st.sampled_from(THERE[:10]))
    rows = [row, {**row, "n": 1}, {**row, "n": 2}, mutate(draw, row, JUNK) if draw(st.booleans()) else row]
    ending = draw(st.sampled_from(["jsonl", "jsonl", "json", "csv", "tsv", "jsonl.gz", "parquet"]))
    content = written(rows, ending)
    for _ in range(draw(st.integers(0, 2))):
        content = damage(draw, content, INSERTS)
    return File(f"rows.{ending}", content)


def written(rows: list[Any], ending: str) -> bytes:
    """Return rows as a file of a kind."""
    if ending == "json":
        return json.dumps(rows, default=str).encode()
    if ending in ("csv", "tsv"):
        text = io.StringIO()
        flat = [{"prompt": "How?", "chosen": f"{row}"[:50], "rejected": "No."} for row in rows]
        writer = csv.DictWriter(
            text, ["prompt", "chosen", "rejected"], delimiter="," if ending == "csv" else "\t"
        )
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue().encode("utf-8", "surrogatepass")
    if ending == "parquet":
        import pyarrow
        import pyarrow.parquet

        file = io.BytesIO()
        plain = [
            {"prompt": "How?", "chosen": "Mix flour.", "rejected": f"No {number}."}
            for number in range(len(rows))
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), file)
        return file.getvalue()
    lines = b"".join(json.dumps(row, default=str).encode() + b"\n" for row in rows)
    return gzip.compress(lines) if ending.endswith("gz") else lines


FILES = files()


class OfFiles:
    """Takes a :class:`File`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "rows.jsonl").write_bytes(written(THERE[:1], "jsonl"))
        (folder / "recipe.toml").write_text(RECIPE.replace("rows.jsonl", str(folder / "rows.jsonl")))
        self.recipe = load_recipe(folder / "recipe.toml")
        self.tokenizer = tiny_tokenizer()

    def __call__(self, case: File) -> str:
        file = self.folder / case.name
        file.unlink(missing_ok=True)
        file.write_bytes(case.content)
        source = HFDatasetsSource(HFDatasetsSource.Options(name=str(file)))
        try:
            data = prepare_data(
                replace(self.recipe, parts={**self.recipe.parts, "data": (source,)}),
                self.tokenizer,
                SilentReporter(),
            )
        except (DataError, RecipeError) as error:
            check_message(str(error), (case.name, "ormatter", "split", "row "))
            return type(error).__name__
        assert len(data.train)
        json.dumps(data.report.as_json(), ensure_ascii=False).encode()
        return "accepted"
