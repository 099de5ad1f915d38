"""A pair as the model sees it: each line of text behind the name of its part, special tokens marked.

Colours repeat what the marks say, so a file, a pipe and a terminal without colours show the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.cells import chop_cells
from rich.text import Text

from dpotrain.core.errors import short
from dpotrain.core.formats import count, printable
from dpotrain.data.inspection.row_view import PairView, Part, Piece, RowView, TextView
from dpotrain.ui.symbols import Symbols

_STYLES: dict[Part, str] = {"prompt": "cyan", "unscored": "dim", "scored": "green", "cut": "red"}
_MEANINGS: dict[Part, str] = {
    "prompt": "read",
    "scored": "counts in the loss",
    "unscored": "read, not counted",
    "cut": "not read",
}
_GUTTER = max(map(len, _STYLES))
#: Characters that are shown of a text where not all of it is, half from each end.
_SHORT = 400


def row_lines(view: RowView, symbols: Symbols, width: int | None, short: bool = False) -> Iterator[Text]:
    """Yield the row's pairs, or its columns where it gives none; lines are wrapped at ``width`` columns, if any.

    ``short`` shows beginning and end of long texts.
    """
    where = f"row {view.row} of {printable(view.split)}"
    for reason in view.dropped:
        yield Text.assemble((f"{where}: dropped: ", "bold red"), (printable(reason), "bold"))
    if not view.pairs:
        for name, value in view.columns.items():
            yield Text.assemble((f"{printable(str(name))}: ", "dim"), _cut(printable(repr(value))))
    for number, pair in enumerate(view.pairs, 1):
        of = f", pair {number} of {len(view.pairs)}" if len(view.pairs) > 1 else ""
        text = Text(f"{where}{of}", style="bold")
        if pair.dropped:
            text = Text.assemble((f"{where}{of}: dropped: ", "bold red"), (printable(pair.dropped), "bold"))
        yield text
        if pair.template_arguments:
            yield Text(f"template arguments: {_arguments(pair)}", style="dim")
        for note in pair.notes:
            yield Text(printable(note), style="yellow")
        yield from _pair_lines(pair, symbols, width, short)


def legend(symbols: Symbols) -> Text:
    """Return what the marks mean."""
    text = Text(style="dim")
    for part, meaning in _MEANINGS.items():
        text.append(part, style=_STYLES[part]).append(f": {meaning}; ")
    return text.append(f"{symbols.opens}…{symbols.closes}: special token; {symbols.line_end}: line end")


def _pair_lines(pair: PairView, symbols: Symbols, width: int | None, short: bool) -> Iterator[Text]:
    yield Text(f"prompt, {_tokens(pair.prompt)}", style="bold")
    yield from _text_lines(pair.prompt, symbols, width, short)
    moved = ", moved back: the prompt's tokens are not a prefix" if pair.boundary_moved else ""
    boundary = f"{symbols.dash * 2} boundary after token {pair.prompt.count()}{moved} {symbols.dash * 2}"
    yield Text(boundary, style="bold yellow")
    for name, view in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        yield Text(f"{name}, {_tokens(view)}", style="bold")
        yield from _text_lines(view, symbols, width, short)


def _arguments(pair: PairView) -> str:
    each = [
        f"{name} = {short(json.dumps(value, ensure_ascii=False, default=str), _SHORT)}"
        for name, value in pair.template_arguments.items()
    ]
    return printable(", ".join(each))


def _tokens(view: TextView) -> str:
    text = f"{count(view.count())} token{'s' * (view.count() != 1)}"
    scored, cut = view.count("scored"), view.count("cut")
    return text + f", {count(scored)} scored" * bool(scored) + f", {count(cut)} cut" * bool(cut)


def _text_lines(view: TextView, symbols: Symbols, width: int | None, short: bool) -> Iterator[Text]:
    """Yield lines of text behind the name of their part; a line ends where a part or the text's own line does."""
    for part, line in _lines(_shortened(view.pieces) if short else view.pieces, symbols):
        room = None if width is None else max(width - _GUTTER - 3, 10)
        for index, row in enumerate([line] if room is None else _wrapped(line, room)):
            name = part if index == 0 else ""
            yield Text.assemble((f"{name:<{_GUTTER}} {symbols.gutter} ", f"dim {_STYLES[part]}"), row)


def _lines(pieces: tuple[Piece, ...], symbols: Symbols) -> Iterator[tuple[Part, Text]]:
    line, of = Text(), None
    for piece in pieces:
        if of not in (None, piece.part) and line:
            yield of, line
            line = Text()
        of, style = piece.part, _STYLES[piece.part]
        shown = printable(piece.text)
        if piece.special:
            line.append(f"{symbols.opens}{shown}{symbols.closes}", style=f"bold reverse {style}")
            continue
        *whole, rest = shown.split("\n")
        for text in whole:
            yield of, line.append(text, style=style).append(symbols.line_end, style="dim")
            line = Text()
        line.append(rest, style=style)
    if of is not None and line:
        yield of, line


def _wrapped(line: Text, width: int) -> Iterator[Text]:
    """Yield the line in rows of at most ``width`` cells, broken after a space in their second half, if any."""
    while True:
        rows = chop_cells(line.plain, width)
        if len(rows) <= 1:  # none of combining characters alone, which take no cells
            yield line
            return
        first = rows[0]
        at = first.rfind(" ") + 1
        if at <= len(first) // 2:
            at = len(first)
        row, line = line.divide([at])
        yield row


def _shortened(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Return the pieces without the middle of each long text."""
    return tuple(Piece(piece.part, piece.special, _cut(piece.text), piece.tokens) for piece in pieces)


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT // 2]} … {text[-_SHORT // 2 :]}"
