"""Pairs of text or messages to pairs of token ids.

Where the prompt's own tokens are not a prefix of prompt + answer (a template that writes a thinking section, a trailing
space that merges with the answer's first word), the boundary of both answers is moved back to the last common token.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dpotrain.core.errors import DataError
from dpotrain.core.pair import PreferencePair, UnusableRow
from dpotrain.data.formats.read_row import NESTED
from dpotrain.data.tokens.chat_template import TemplateInputs
from dpotrain.data.tokens.control_tokens import UNREADABLE
from dpotrain.data.tokens.limits import Cut, Limits
from dpotrain.data.tokens.render import Answer, Renderer, Rendering
from dpotrain.data.tokens.time_limit import TimeLimitExceeded, cpu_time_limit
from dpotrain.data.tokens.tokenized import Flags, TokenizedPair, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: Seconds of processor time that a chat template may take for one pair; it usually takes a few milliseconds.
MAX_RENDER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair as tokenized, and what the data report counts about it."""

    pair: TokenizedPair | None
    """None where the pair is dropped."""
    reason: str = ""
    """Why it is dropped."""
    uncut: tuple[int, int, int] | None = None
    """Tokens of prompt, chosen and rejected before anything was cut; None where nothing was tokenized."""
    cut: Cut | None = None
    """What the limits cut; None where they drop the pair."""
    boundary_moved: bool = False
    prompt_cut: bool = False
    completions_cut: int = 0
    turns_unscored: int = 0
    """Assistant turns that are not scored, wholly or in part, because the chat template rewrites them."""
    open_ended: int = 0
    """Completions that do not end in a special token, and so do not teach the model to stop."""
    notes: tuple[str, ...] = ()
    """What the data report says of the pair, if it is kept."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """The variables that the chat template was given."""


class PairTokenizer:
    """Tokenizes pairs with one tokenizer, within limits of their length."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, inputs: TemplateInputs | None = None
    ) -> None:
        """Give the chat template ``inputs``; without them it reads the time of this call."""
        self.limits = limits
        self._tokenizer = tokenizer
        self._render = Renderer(tokenizer, inputs or TemplateInputs())
        self._leading = leading_special_tokens(tokenizer)
        self._in_front = {*self._leading, tokenizer.bos_token_id}
        self._special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}

    def within(self, limits: Limits) -> PairTokenizer:
        """Return the same with other limits."""
        other = copy.copy(self)
        other.limits = limits
        return other

    def __call__(self, pairs: Sequence[tuple[int, PreferencePair]]) -> list[PairResult]:
        """Tokenize (row, pair) items together, which lets the tokenizer use all cores; the order is kept.

        The pairs have passed :func:`dpotrain.data.formats.check_pair.check_pair`. Raises DataError where the tokenizer
        cannot take such pairs at all, or its chat template exceeds the time limit.
        """
        renderings: list[Rendering | UnusableRow] = []
        for row, pair in pairs:
            try:
                with cpu_time_limit(MAX_RENDER_SECONDS):
                    rendering = self._render(pair)
            except UnusableRow as error:
                renderings.append(error)
                continue
            except RecursionError:
                renderings.append(UnusableRow(NESTED))
                continue
            except TimeLimitExceeded:
                raise DataError(
                    f"row {row}: the chat template takes more than {MAX_RENDER_SECONDS:g} seconds to render it.\n"
                    "Set model.chat_template to another template, or remove the row."
                ) from None
            whole = all(map(_is_unicode, rendering.texts()))
            renderings.append(rendering if whole else UnusableRow("the text holds half a character"))
        rendered = [one for one in renderings if isinstance(one, Rendering)]
        # Pairs that share a prompt share its tokens.
        encoded = self._encode(
            list(dict.fromkeys(text for one in rendered if one.control is None for text in one.texts()))
        )
        return [
            PairResult(None, str(one)) if isinstance(one, UnusableRow) else self._result(row, one, encoded)
            for (row, _), one in zip(pairs, renderings, strict=True)
        ]

    def _result(self, row: int, rendering: Rendering, encoded: dict[str, Tokens]) -> PairResult:
        if rendering.control is None:
            return self._assemble(row, rendering, encoded)
        texts = list(dict.fromkeys(rendering.texts()))
        ids = rendering.control.encode(texts)
        if None in ids:
            return PairResult(None, UNREADABLE)
        return self._assemble(
            row, rendering, {t: np.array(one, np.int32) for t, one in zip(texts, ids, strict=True)}
        )

    def _encode(self, texts: list[str]) -> dict[str, Tokens]:
        """Tokenize texts without the tokenizer's own special tokens."""
        if not texts:
            return {}
        ids = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return {text: np.array(one, np.int32) for text, one in zip(texts, ids, strict=True)}

    def _assemble(self, row: int, rendering: Rendering, encoded: dict[str, Tokens]) -> PairResult:
        """Find the boundary, truncate, flag the scored tokens; drop pairs without a preference to learn."""
        prompt, chosen, rejected = (
            encoded[text] for text in (rendering.prompt, rendering.chosen.full, rendering.rejected.full)
        )
        if rendering.plain:
            prompt, chosen, rejected = (
                with_leading(ids, self._leading) for ids in (prompt, chosen, rejected)
            )
            chosen, rejected = self._with_eos(chosen), self._with_eos(rejected)
        boundary = min(common_prefix(prompt, chosen), common_prefix(prompt, rejected))
        chosen_flags, chosen_unscored = _scored(chosen, rendering.chosen, boundary, encoded)
        rejected_flags, rejected_unscored = _scored(rejected, rendering.rejected, boundary, encoded)
        leading = self._leading_in(prompt[:boundary])
        fitted = self.limits.cut(boundary, max(len(chosen), len(rejected)) - boundary, leading)
        reason = fitted if isinstance(fitted, str) else ""
        cut = Cut(range(0), 0) if isinstance(fitted, str) else fitted
        kept = slice(boundary, boundary + cut.room)
        counts: dict[str, Any] = {
            "uncut": (boundary, len(chosen) - boundary, len(rejected) - boundary),
            "cut": None if reason else cut,
            "boundary_moved": boundary < len(prompt),
            "prompt_cut": bool(cut.prompt),
            "completions_cut": sum(len(ids) - boundary > cut.room for ids in (chosen, rejected)),
            "turns_unscored": chosen_unscored + rejected_unscored,
            "notes": rendering.notes,
            "template_arguments": rendering.arguments,
            "open_ended": sum(self._special.isdisjoint(ids[-2:].tolist()) for ids in (chosen, rejected)),
        }
        pair = TokenizedPair(
            prompt=np.delete(prompt[:boundary], cut.prompt) if cut.prompt else prompt[:boundary],
            chosen=chosen[kept],
            rejected=rejected[kept],
            chosen_scored=chosen_flags[kept],
            rejected_scored=rejected_flags[kept],
            row=row,
        )
        if not boundary:
            reason = "prompt and answers have no first token in common"
        reason = reason or _fault(pair, chosen, rejected, (chosen_flags, rejected_flags))
        return PairResult(None if reason else pair, reason, **counts)

    def _leading_in(self, prompt: Tokens) -> int:
        """Return how many special tokens a prompt begins with of those that stand before any text, such as BOS."""
        return next((at for at, token in enumerate(prompt) if int(token) not in self._in_front), len(prompt))

    def _with_eos(self, ids: Tokens) -> Tokens:
        """End in exactly one EOS, where the tokenizer has one."""
        eos = self._tokenizer.eos_token_id
        if eos is None or (len(ids) and ids[-1] == eos):
            return ids
        return np.append(ids, np.int32(eos))


def _fault(pair: TokenizedPair, chosen: Tokens, rejected: Tokens, flags: tuple[Flags, ...]) -> str:
    """Return why a pair within the limits is dropped, or an empty text; tokens and flags are those before any cut."""
    if not all(one.any() for one in flags):
        return "no token of the answer can be scored"
    if np.array_equal(chosen, rejected):
        return "chosen and rejected have the same tokens"
    if not (pair.chosen_scored.any() and pair.rejected_scored.any()):
        return "no scored token within max_length"
    if np.array_equal(pair.chosen, pair.rejected):
        return "chosen and rejected differ only beyond max_length"
    return ""


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON can hold lone surrogates, which no tokenizer takes."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Return how many leading tokens ``a`` and ``b`` have in common."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _scored(ids: Tokens, answer: Answer, boundary: int, encoded: dict[str, Tokens]) -> tuple[Flags, int]:
    """Flag the model's own tokens among ``ids`` (prompt and answer), and count turns not wholly flagged.

    A turn is flagged only as far as its renderings are prefixes of the whole, so a user's or tool's token is
    never flagged, even under a template that writes earlier turns differently once later ones follow.
    """
    flags = np.zeros(len(ids), bool)
    if answer.turns is None:
        flags[boundary:] = True
        return flags, 0
    hidden = 0
    for turn in answer.turns:
        before, opened = encoded[turn.before], encoded[turn.opened]
        closed = ids if turn.closed is None else encoded[turn.closed]
        start = common_prefix(opened, ids)
        # A template may end what stops before the turn with an end of its own: either rendering will do.
        if start < len(opened) and common_prefix(before, ids) < len(before):
            hidden += 1
            continue
        end = common_prefix(closed, ids)
        flags[max(boundary, start) : end] = True
        hidden += end < len(closed)
    return flags, hidden


def with_leading(ids: Tokens, leading: Sequence[int]) -> Tokens:
    """Put :func:`leading_special_tokens` in front of ids, but no second BOS."""
    if leading and len(ids) and ids[0] == leading[-1]:
        leading = leading[:-1]
    return np.concatenate([np.array(leading, np.int32), ids])


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer itself puts before a text (BOS, for most that have one).

    What it puts after a text does not belong to a prompt, and completions get their EOS explicitly.
    """
    probe = "a"
    bare: list[int] = tokenizer(probe, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(probe)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start]
    # A vocabulary without the probe: all ids are special, and BOS can only come first.
    return whole[:1] if whole and whole[0] == tokenizer.bos_token_id else []
