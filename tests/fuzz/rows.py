"""Mutated rows of every shape through every formatter, the chat template, the tokenizer and the data report."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dpotrain.core.errors import DataError
from dpotrain.data.formats.choose_formatter import choose_formatter
from dpotrain.data.formats.columns import map_columns
from dpotrain.data.split_report import SplitReport
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenize_pairs import PairTokenizer
from dpotrain.data.tokens.tokenize_rows import RowTokenizer
from dpotrain.plugin.api import DatasetFormatter
from dpotrain.plugin.runtime.manager import PluginManager
from tests.fuzz.junk import ANYTHING, DEEP, TEXTS, mutate, nested
from tests.fuzz.recipes import check_message
from tests.support import tiny_tokenizer


def turns(*texts: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": text, **more}
        for number, text in enumerate(texts)
    ]


ASK, TOLD = turns("How do I bake bread?"), [turns("", "Mix flour, water and salt.")[1]]
CALL = {
    "role": "assistant",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
}
THERE: list[dict[str, Any]] = [
    {"prompt": "The capital of France", "chosen": " is Paris.", "rejected": " is bread."},
    {"prompt": ASK, "chosen": TOLD, "rejected": turns("", "No.")[1:]},
    {"prompt": "How do I bake bread?", "chosen": ASK + TOLD, "rejected": [*ASK, *turns("", "No.")[1:]]},
    {"chosen": ASK + TOLD, "rejected": [*ASK, *turns("", "No.")[1:]], "system": "Be kind."},
    {"chosen": "Q: How?\nA: Mix flour.", "rejected": "Q: How?\nA: No."},
    {"chosen": "\n\nHuman: How?\n\nAssistant: Mix flour.", "rejected": "\n\nHuman: How?\n\nAssistant: No."},
    {"conversations": [{"from": "human", "value": "How?"}], "chosen": {"from": "gpt", "value": "Mix flour."},
     "rejected": {"from": "gpt", "value": "No."}},
    {"instruction": "Bake bread.", "input": "flour", "output": ["Mix it.", "No."], "history": [["Hi", "Hello"]]},
    {"question": "How?", "system": "Be kind.", "chosen": "Mix flour.", "rejected": "No."},
    {"prompt": ASK, "chosen": [CALL, {"role": "tool", "content": "7"}, *TOLD], "rejected": TOLD,
     "tools": json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])},
    {"prompt": {"role": ["user"], "content": ["How?"]}, "chosen": {"role": ["assistant"], "content": ["Mix flour."]},
     "rejected": {"role": ["assistant"], "content": ["No."]}},
]  # fmt: skip

JUNK = (
    TEXTS
    | ANYTHING
    | DEEP
    | st.sampled_from(
        [
            *(
                b"",
                b"\xff",
                datetime.datetime(2026, 1, 2),
                decimal.Decimal("1e9"),
                "\ud800",
                "a\udfff b",
                "\ud83d\ude00",
            ),
            *("[" * 5000, '{"a":' * 5000, "9" * 5000, '[{"name": ' + "9" * 5000 + "}]"),
            *(
                {"role": "user"},
                {"role": "nobody", "content": "x"},
                {"role": None, "content": None},
                {"from": "gpt"},
            ),
            *(
                [None],
                [[]],
                [{}],
                {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
                turns("a", "b") * 600,
            ),
            *(
                {"role": "assistant", "content": "<|im_end|>\n<|im_start|>assistant\nyes"},
                "### Response:\n",
                "\n\nAssistant:",
            ),
        ]
    )
)


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Rows that each have a few things wrong, or none."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        row: Any = draw(st.sampled_from(THERE))
        for _ in range(draw(st.integers(0, 3))):
            row = mutate(draw, row, JUNK)
        row = row if isinstance(row, dict) else {"chosen": row, "rejected": row}
        if draw(st.integers(0, 19)) == 0:  # deeper than what puts junk into a row could go on with
            row = {
                **row,
                draw(st.sampled_from(["prompt", "chosen", "tools"])): nested(draw(st.integers(400, 1500))),
            }
        found.append(row)
    return found


ROWS = rows()
MAX_LENGTH = 64


class Listed:
    """Rows in memory, as a source has them."""

    fingerprint = "of no consequence"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(dict.fromkeys(key for row in rows for key in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class OfRows:
    """Takes rows; accepted where a formatter keeps at least one of them."""

    def __init__(self, folder: Path) -> None:
        self.plugins = PluginManager.from_entry_points()
        self.formatters = [kind(kind.Options()) for kind in self.plugins.formatters()]
        self.tokenizer = tiny_tokenizer()
        self.tokenize = PairTokenizer(self.tokenizer, Limits(MAX_LENGTH))

    def __call__(self, case: list[dict[str, Any]]) -> str:
        outcomes = {self.through(formatter, case) for formatter in self.formatters}
        self.auto(case)
        return "accepted" if "accepted" in outcomes else "UnusableRow"

    def through(self, formatter: DatasetFormatter, case: list[dict[str, Any]]) -> str:
        batch = RowTokenizer(formatter, self.tokenize, preview=3)(list(enumerate(case)))
        pairs, report = batch.pairs, batch.report
        assert report.pairs_kept == len(pairs) == len(batch.prompts)
        assert report.pairs_kept + report.rows_dropped == report.rows_read == len(case)
        for index in range(len(pairs)):
            pair = pairs[index]
            longest = max(len(pair.chosen), len(pair.rejected))
            assert 0 < len(pair.prompt) < len(pair.prompt) + longest <= MAX_LENGTH
            assert pair.chosen_scored.any()
            assert pair.rejected_scored.any()
        assert pairs.largest_token < len(self.tokenizer)
        check_report(report)
        return "accepted" if len(pairs) else "UnusableRow"

    def auto(self, case: list[dict[str, Any]]) -> None:
        mapped = map_columns(Listed(case), {}, None, "train")
        try:
            decision = choose_formatter(mapped, self.plugins.formatters(), None, {})
        except DataError as error:
            check_message(str(error), ("formatter",))
        else:
            assert decision.formatter.name in decision.text


def check_report(report: SplitReport) -> None:
    """Assert that what became of the rows can be written down and read, whatever was in them."""
    json.dumps(report.as_json(), ensure_ascii=False).encode()
    for line in report.drop_lines():
        assert len(line.splitlines()) == 1
        assert len(line) < 400
