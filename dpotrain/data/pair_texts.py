"""Prompt and answers of pairs as a person wrote them, read from the source's rows once more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpotrain.core.pair import PreferencePair, Text, UnusableRow
from dpotrain.data.formats.read_row import read_row
from dpotrain.data.prepare import DataReader
from dpotrain.data.split_reader import SplitReader
from dpotrain.data.tokens.tokenized import TokenizedPairs, pair_key


@dataclass(frozen=True, slots=True)
class PairText:
    """One pair."""

    row: int
    """Number of the row in the source."""
    prompt: str
    chosen: str
    rejected: str
    source: str = ""
    """Label of the source of a mixture."""


def plain_text(part: Text) -> str:
    """Return a prompt or answer as one text: what its only turn says, or all turns, each after its role."""
    if isinstance(part, str):
        return part
    turns = [(str(turn["role"]), _said(turn.get("content"), turn.get("tool_calls"))) for turn in part]
    if len(turns) == 1 and turns[0][0] in ("user", "assistant"):
        return turns[0][1]
    return "\n".join(f"{role}: {text}" for role, text in turns)


def evaluation_texts(reader: DataReader, pairs: TokenizedPairs) -> Iterator[PairText]:
    """Yield the texts of pairs of the reader's evaluation set, in their order."""
    for index in range(len(pairs)):
        tokens = pairs[index]
        split = reader.reader_of(tokens.source, evaluated=True)
        try:
            found = read_row(split.tokenize.formatter, split.rows[tokens.row], tokens.row).pairs
            pair = _same(split, found, pairs, index)
        except (UnusableRow, RecursionError):
            pair = None
        if pair is None:  # a formatter that reads the row otherwise the second time
            ids = (tokens.prompt, tokens.chosen, tokens.rejected)
            decode = reader.tokenizer.decode
            prompt, chosen, rejected = (str(decode(each.tolist(), skip_special_tokens=True)) for each in ids)
        else:
            prompt, chosen, rejected = map(plain_text, (pair.prompt, pair.chosen, pair.rejected))
        yield PairText(tokens.row, prompt, chosen, rejected, split.data_set.label)


def _same(
    split: SplitReader, found: Sequence[PreferencePair], pairs: TokenizedPairs, index: int
) -> PreferencePair | None:
    """Return which pair of a row the tokenized one is; a row may give several."""
    if len(found) == 1:
        return found[0]
    row = int(pairs.rows[index])
    results = split.tokenize.tokenizer([(row, pair) for pair in found])
    for pair, result in zip(found, results, strict=True):
        if result.pair is not None and pair_key(result.pair) == pairs.keys[index].tobytes():
            return pair
    return None


def _said(content: object, calls: object) -> str:
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    if not calls:
        return said
    return f"{said} {json.dumps(calls, ensure_ascii=False, default=str)}".strip()
