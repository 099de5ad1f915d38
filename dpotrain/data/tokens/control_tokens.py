"""Control tokens that a message quotes: its text is tokenized as text, and only the template writes control tokens.

A quoted token is broken by a noncharacter before the template sees it. In what the template renders, every whole
control token is then the template's own. A copy of the tokenizer, in which control tokens have other names, tokenizes
the text with its own control tokens renamed and the quoted ones as they stand; so both come out as they do in context.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dpotrain.core.pair import UnusableRow
from dpotrain.data.tokens.chat_template import strings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

#: Breaks a quoted token. Unicode keeps it for such use; no text holds it.
_BREAK = "\ufdd0"
_ESCAPED_BREAK = "\\ufdd0"  # as JSON in ASCII writes it
#: Stands around the new name of a control token.
_RENAMED = "\ufdd1"
#: Why a pair is dropped whose quoted control tokens cannot be told from the template's.
UNREADABLE = "a message quotes a control token, which this tokenizer cannot read as text"


class ControlTokens:
    """The control tokens of a tokenizer: its special ones, and ``markers``, others that open or close a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        # One character cannot be broken, and white space is in every text.
        names = {name for name in special.union(markers) if len(name) > 1 and not name.isspace()}
        self.names = tuple(sorted(names, key=lambda name: (-len(name), name)))
        """Longest first."""
        self._pattern = re.compile(any_of(self.names) or "(?!)")

    def quoted(self, value: Any) -> list[str]:
        """Return the control tokens in the texts inside plain data, each once, sorted."""
        return sorted({name for text in strings(value) for name in self._pattern.findall(text)})

    def broken(self, value: Any) -> Any:
        """Return plain data with every control token in its texts broken.

        Raises:
            UnusableRow: a text holds the character that breaks them.
        """
        if isinstance(value, str):
            if _BREAK in value or _RENAMED in value:
                raise UnusableRow(UNREADABLE)
            while self._pattern.search(value):  # what is left of a long one may be a short one
                value = self._pattern.sub(lambda found: f"{found[0][0]}{_BREAK}{found[0][1:]}", value)
            return value
        if isinstance(value, Mapping):
            return {self.broken(name): self.broken(item) for name, item in value.items()}
        return [self.broken(item) for item in value] if isinstance(value, Sequence) else value

    def encode(self, texts: Sequence[str]) -> list[list[int] | None]:
        """Return the ids of texts in which quoted control tokens are broken; None where they cannot be told apart."""
        if self._renamed is None:
            return [None] * len(texts)
        renamed = [self._rename(text).replace(_BREAK, "").replace(_ESCAPED_BREAK, "") for text in texts]
        encoded = self._renamed.encode_batch(renamed, add_special_tokens=False)
        return [self._checked(text, one.ids) for text, one in zip(texts, encoded, strict=True)]

    def _rename(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._names[found[0]], text)

    def _checked(self, text: str, ids: list[int]) -> list[int] | None:
        """Return the ids if their control tokens are those that stand whole in the text, in this order."""
        # Text that the vocabulary lacks becomes the unknown token, which says nothing.
        control = set(self._ids.values()) - {self._tokenizer.unk_token_id}
        own = [token for token in map(self._ids.__getitem__, self._pattern.findall(text)) if token in control]
        return ids if [token for token in ids if token in control] == own else None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: self._tokenizer.convert_tokens_to_ids(name) for name in self.names}

    @cached_property
    def _names(self) -> dict[str, str]:
        """New names: private, and no name is part of another."""
        return {name: f"{_RENAMED}{chr(0xE000 + at)}{_RENAMED}" for at, name in enumerate(self.names)}

    @cached_property
    def _renamed(self) -> Tokenizer | None:
        """A copy of the tokenizer with the new names; None where there is no such copy that tokenizes alike."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or None in self._ids.values():
            return None
        from tokenizers import Tokenizer

        try:
            copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), self._names)))
        except Exception:  # the library raises nothing narrower
            return None
        probe = "".join(f"{word}{name}" for name in self.names for word in ("a ", " b", "\n", ""))
        expected = self._tokenizer(probe, add_special_tokens=False)["input_ids"]
        return copy if copy.encode(self._rename(probe), add_special_tokens=False).ids == expected else None


def any_of(names: Iterable[str]) -> str:
    """Return a pattern of the longest of these names; what several begin with stands in it once.

    Some tokenizers have thousands of special tokens that begin alike, which would all be tried at every ``<``.
    """
    by_start: dict[str, list[str]] = {}
    for name in names:
        by_start.setdefault(name[:1], []).append(name)
    ends = by_start.pop("", [])
    parts = []
    for alike in by_start.values():
        start = os.path.commonprefix(alike)  # noqa: RUF071  # names, not paths
        parts.append(re.escape(start) + any_of(name[len(start) :] for name in alike))
    return f"(?:{'|'.join(parts)}){'?' * bool(ends)}" if parts else ""


def turn_markers(tokenizer: PreTrainedTokenizerBase, rendered: str) -> set[str]:
    """Return the added tokens in a rendered conversation of plain turns, without tags that come in pairs.

    They open and close turns, even where the tokenizer does not declare them special, as DeepSeek's does not. Tags
    such as ``<think>`` and ``</think>`` mark up what a turn says: messages are meant to hold them.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    paired = {name for name in added if f"</{name[1:]}" in added or f"<{name[2:]}" in added}
    return {name for name in added - paired if name in rendered}


def _renamed(rules: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a tokenizer's rules with tokens renamed; they are left out of what plain text can become."""
    model = rules["model"]
    added = [
        {**token, "content": names[token["content"]], "special": True, "normalized": False}
        if token["content"] in names
        else token
        for token in rules["added_tokens"]
    ]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): number for token, number in vocab.items()}
    elif isinstance(vocab, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if "".join(merge).replace(" ", "") not in names]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return rules | {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
