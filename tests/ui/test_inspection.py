"""What a person sees of an inspection: in a file, on a terminal, on a narrow one, without colours."""

import io
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dpotrain.data.inspection.row_view import PairView, Piece, RowView, TextView, row_view, text_view
from dpotrain.ui.inspection import finding_line, print_inspection, print_row
from dpotrain.ui.symbols import Symbols
from dpotrain.ui.token_view import row_lines
from tests.data.inspection.inspecting import clean, inspected, reader
from tests.data.tokenizers_for_tests import CHATML, assistant, bpe, user

TOKENIZER = bpe(template=CHATML)


def printed(show, what, width: int | None, **options) -> str:
    """What is printed on a terminal of so many columns; into a file without a width."""
    file = io.StringIO()
    options = {"force_terminal": width is not None, "color_system": None, "legacy_windows": False, **options}
    show(what, Console(file=file, width=width, **options))
    text = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    return "".join(f"{line.rstrip()}\n" for line in text.split("\n")[:-1])


@pytest.fixture(scope="module")
def inspection():
    """Something of every severity."""
    rows = clean(60)
    rows[9] = rows[3]
    rows[20] = rows[5] | {"chosen": rows[5]["rejected"], "rejected": rows[5]["chosen"]}
    rows[30] = rows[31] | {"chosen": ""}
    for number in range(40, 60):
        rows[number]["rejected"] = "# Sure!\n" + " ".join([rows[number]["rejected"]] * 3)
    return inspected([row | {"note": "text"} for row in rows], eval_fraction=0.2, max_length=256)


@pytest.fixture(scope="module")
def row():
    """A chat with a turn inside an answer, and an answer that is cut."""
    chosen = [assistant("First line.\n\nSecond line."), user("And?"), assistant("Done. " * 5)]
    rows = [{"prompt": [user("Say two things.")], "chosen": chosen, "rejected": [assistant("No. " * 12)]}]
    return row_view(reader(rows, TOKENIZER, max_length=64), "train", 0)


@pytest.mark.parametrize("width", [None, 80, 40])
def test_an_inspection_as_it_is_printed(inspection, snapshot, width):
    text = printed(print_inspection, inspection, width)
    snapshot(f"inspection_{width or 'file'}.txt", text)
    if width is not None:
        assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [None, 40])
def test_where_nothing_is_found_that_is_said(width):
    text = printed(print_inspection, inspected(clean(20)), width)
    assert "\nno findings\nnot found: dropped rows, cut prompts," in text
    assert "giveaways" in text


@pytest.mark.parametrize("width", [None, 80, 40])
def test_a_row_as_it_is_printed(row, snapshot, width):
    text = printed(print_row, row, width)
    snapshot(f"row_{width or 'file'}.txt", text)
    if width is not None:
        assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [0, 1, 5, 23])
def test_a_terminal_of_hardly_any_width_gets_what_one_of_24_columns_gets(inspection, row, width):
    for show, what in ((print_inspection, inspection), (print_row, row)):
        assert printed(show, what, width) == printed(show, what, 24)


def test_colours_only_repeat_what_marks_say(inspection, row):
    for show, what in ((print_inspection, inspection), (print_row, row)):
        plain = printed(show, what, 80)
        assert printed(show, what, 80, color_system="truecolor") == plain
        assert printed(show, what, 80, no_color=True) == plain


def test_a_cut_prompt_and_the_variables_of_its_template_are_shown():
    rows = [
        {
            "prompt": [user("hello there " * 9)],
            "chosen": [assistant("yes")],
            "rejected": [assistant("no")],
            "chat_template_kwargs": {"think": False, "mood": "sad\nand so on"},
        }
    ]
    template = "{{ mood }}{{ think }}" + CHATML
    view = row_view(reader(rows, bpe(template=template), max_prompt_length=9), "train", 0)
    lines = printed(print_row, view, None).splitlines()
    assert lines[1] == 'template arguments: think = false, mood = "sad\\nand so on"'
    tokens = view.pairs[0].prompt.count()
    assert lines[2] == f"prompt, {tokens} tokens, {tokens - 9} cut"
    assert lines[3].startswith("cut")


def test_an_encoding_without_the_marks_gets_others(row):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_row(row, Console(file=file, width=80))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "scored   | First line.\\n\n" in text
    assert "<<<|im_start|>>>user" in text


def test_control_characters_of_the_data_do_not_reach_the_terminal():
    rows = [{"prompt": "a\x1b[2Jb", "chosen": " \x07yes", "rejected": " no"}]
    text = printed(print_row, row_view(reader(rows), "train", 0), 80)
    assert "\x1b" not in text
    assert "\x07" not in text
    rows[0]["chosen"] = "\x1b[2J"
    rows[0]["rejected"] = ""
    text = printed(print_row, row_view(reader(rows), "train", 0), 80)
    assert "\x1b" not in text


printable = st.text(
    st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="⏎«»│"), max_size=60
)
texts = st.lists(printable, min_size=1, max_size=4).map("\n".join)


def test_a_part_of_combining_characters_alone_is_shown():
    part = TextView((Piece("scored", False, "\u0300", (1,)),))
    pair = PairView("", part, part, part, False)
    lines = list(row_lines(RowView("train", 0, {}, (pair,), ()), Symbols.of(_unicode()), 30))
    assert any("\u0300" in line.plain for line in lines)


@given(st.data(), texts, texts, st.sampled_from([None, 30, 80]), st.integers(0, 60))
def test_without_its_marks_the_view_is_the_decoded_text(data, before, answer, width, most):
    ids = [
        TOKENIZER(f"<|im_start|>{part}<|im_end|>", add_special_tokens=False)["input_ids"]
        for part in (before, answer)
    ]
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids[1]), max_size=len(ids[1]))), bool)
    prompt, chosen = (np.array(each, np.int32) for each in ids)
    gone = range(most, sys.maxsize)
    view = text_view(TOKENIZER, chosen, flags, ids[0], gone)
    pair = PairView("", text_view(TOKENIZER, prompt, None, [], gone), view, view, False)
    lines = [
        line.plain for line in row_lines(RowView("train", 0, {}, (pair,), ()), Symbols.of(_unicode()), width)
    ]
    shown = "".join(line.partition("│ ")[2] for line in lines if "│ " in line)
    decoded = [TOKENIZER.decode(each, clean_up_tokenization_spaces=False) for each in ids]
    if any("\ufffd" in piece.text for of in (pair.prompt, view) for piece in of.pieces):
        return  # a character whose bytes are of two parts
    assert re.sub("[«»]", "", shown.replace("⏎", "\n")) == decoded[0] + 2 * decoded[1]


def _unicode() -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def test_a_finding_is_one_line_in_check(inspection):
    finding = next(each for each in inspection.findings if each.kind == "duplicates")
    assert finding_line(finding) == (
        "warning: train: duplicates: 1 of 59 pairs (1.7 %) repeat an earlier pair exactly (row 9 (as 3)). "
        "Remove them: a pair that stands twice counts twice."
    )


def test_the_bar_of_the_most_frequent_length_is_the_longest_and_none_is_lost(inspection):
    text = printed(print_inspection, inspection, None)
    counts = {int(n): len(bar) for n, bar in re.findall(r"^to +\d+ +(\d+) (█*)$", text, re.MULTILINE)}
    assert counts[max(counts)] == 40
    assert all(bar for number, bar in counts.items() if number)
