"""A row as the model sees it: its tokens, which of them are scored, and what was cut; or why the row is dropped."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from dpotrain.core.errors import RecipeError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.read_row import NESTED, read_row
from dpotrain.data.prepare import DataReader
from dpotrain.data.split_reader import SplitReader
from dpotrain.data.tokens.limits import Limits
from dpotrain.data.tokens.tokenized import Flags, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What a token is to the model: read only (prompt, or unscored in an answer), scored, or cut.
Part = Literal["prompt", "unscored", "scored", "cut"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one part; a special token is a piece of its own."""

    part: Part
    special: bool
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TextView:
    """The prompt or one answer; the texts of the prompt's pieces and an answer's, joined, are what the model sees."""

    pieces: tuple[Piece, ...]

    def count(self, *parts: Part) -> int:
        """Return how many tokens are of these parts; of all without any."""
        return sum(len(piece.tokens) for piece in self.pieces if not parts or piece.part in parts)


@dataclass(frozen=True, slots=True)
class PairView:
    """One pair of a row."""

    dropped: str
    """Why the pair is dropped; empty where it is kept."""
    prompt: TextView
    chosen: TextView
    rejected: TextView
    boundary_moved: bool
    """Whether answers begin before the end of the rendered prompt, whose tokens are not a prefix."""
    notes: tuple[str, ...] = ()
    """What the data report says of the pair."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """The variables that the chat template was given: those of ``[data]`` and of the row."""


@dataclass(frozen=True, slots=True)
class RowView:
    """One row."""

    split: str
    row: int
    columns: Mapping[str, Any]
    """The row, under the names that formatters see."""
    pairs: tuple[PairView, ...]
    """Those that could be tokenized, also where they are dropped afterwards."""
    dropped: tuple[str, ...]
    """Why the row, or one of its other pairs, is dropped."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data; what JSON has no form for is text."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain


def row_view(reader: DataReader, split: str, row: int) -> RowView:
    """Return a row of a split as the model sees it; raise a RecipeError where there is no such row."""
    of = reader.splits[split]
    rows = of.rows
    if not 0 <= row < len(rows):
        raise RecipeError(
            f'There is no row {row}: split "{split}" has {len(rows)} rows, and the first is row 0.'
        )
    columns = rows[row]
    try:
        read = read_row(of.tokenize.formatter, columns, row)
    except UnusableRow as error:
        return RowView(split, row, columns, (), (str(error),))
    except RecursionError:
        return RowView(split, row, columns, (), (NESTED,))
    pairs = [_pair_view(reader, of, row, pair) for pair in read.pairs]
    seen = tuple(pair for pair in pairs if not isinstance(pair, str))
    return RowView(
        split, row, columns, seen, (*read.refused, *(pair for pair in pairs if isinstance(pair, str)))
    )


def _pair_view(reader: DataReader, of: SplitReader, row: int, pair: PreferencePair) -> PairView | str:
    """Return the pair's view, or why it could not be tokenized."""
    tokenizer, within = reader.tokenizer, of.tokenize.tokenizer
    (kept,) = within([(row, pair)])
    (whole,) = within.within(Limits(sys.maxsize))([(row, pair)])
    if whole.pair is None:
        return kept.reason or whole.reason
    tokens, prompt = whole.pair, whole.pair.prompt.tolist()
    if kept.cut is None:  # dropped: what is beyond max_length
        most = within.limits.max_length
        gone, room = range(most, len(prompt)), max(0, most - len(prompt))
    else:
        gone, room = kept.cut.prompt, kept.cut.room
    return PairView(
        dropped=kept.reason,
        prompt=text_view(tokenizer, tokens.prompt, None, [], gone),
        chosen=text_view(tokenizer, tokens.chosen, tokens.chosen_scored, prompt, range(room, sys.maxsize)),
        rejected=text_view(
            tokenizer, tokens.rejected, tokens.rejected_scored, prompt, range(room, sys.maxsize)
        ),
        boundary_moved=whole.boundary_moved,
        notes=whole.notes,
        template_arguments=whole.template_arguments,
    )


def text_view(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    scored: Flags | None,
    before: list[int],
    cut: range,
) -> TextView:
    """Return the view of a prompt (``scored`` is None) or of an answer.

    ``before`` are the tokens that it follows, and ``cut`` the places of its tokens that are cut.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = tokens.tolist()

    def kind(place: int) -> tuple[Part, int]:
        part: Part = "prompt" if scored is None else "scored" if scored[place] else "unscored"
        # Special tokens are pieces of one token.
        return "cut" if place in cut else part, place if ids[place] in special else -1

    pieces, seen = [], [*before]
    text = _decode(tokenizer, seen)
    for (part, at), places in groupby(range(len(ids)), key=kind):
        own = tuple(ids[place] for place in places)
        seen += own
        # With what stands before it, because some tokenizers strip the first space of whatever they decode.
        longer = _decode(tokenizer, seen)
        shown = longer[len(text) :] if longer.startswith(text) else _decode(tokenizer, [*own])
        pieces.append(Piece(part, at >= 0, shown, own))
        text = longer
    return TextView(tuple(pieces))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
