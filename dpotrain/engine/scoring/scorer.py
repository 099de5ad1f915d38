"""The scorer: a module whose forward returns the log-prob sum of each completion of a micro-batch.

It is what DDP wraps, so that its hooks fire around everything that has gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.attention import packed
from dpotrain.engine.attention.segments import Segments
from dpotrain.engine.scoring.logprobs import LogitTransform, completion_sums, log_probs_of, token_log_probs
from dpotrain.engine.scoring.rope_scaling import LengthRule, rows_by_group
from dpotrain.engine.scoring.router_sums import RouterSums
from dpotrain.engine.scoring.tied_head import head_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


#: Longest padded sequence: transformers gives those that are padded a mask of length times length, and with several in
#: a micro-batch each. Longer ones share a forward pass only with those of their own length, which need none.
MASKED_TOKENS = 2048
_UNPADDED = LengthRule("padding", MASKED_TOKENS, per_length=True)


def causal_lm(policy: nn.Module) -> PreTrainedModel:
    """Return the causal language model inside an adapter's wrapper (or the model itself)."""
    unwrap = getattr(policy, "get_base_model", None)
    return policy if unwrap is None else unwrap()


class Scorer(nn.Module):
    """Base of the two scorers. ``forward(batch)`` returns (P, 2) float32: log-prob sums of chosen and rejected.

    Precision and discount belong to the scorer, so that policy and reference cannot run under different ones.
    """

    packs: bool
    router_sums: RouterSums | None = None
    """What the routers of a mixture of experts are added to while it is set (see :mod:`.router_loss`)."""
    tail_weight = 1.0
    """What tokens beyond the length of a pair's shorter answer count in the sums."""

    def __init__(self, policy: PreTrainedModel, transform: LogitTransform | None, bf16: bool) -> None:
        super().__init__()
        self.policy = policy
        self.transform = transform
        self.bf16 = bf16

    def forward(
        self, batch: PackedPairs, *, tokens: bool = False, statistics: Sequence[str] = ()
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Score a micro-batch.

        With ``tokens`` or ``statistics`` return its scored tokens, too: their log-probs (S,) float32, or
        (S, 1 + statistics) with these (see :mod:`.statistics`) beside them.
        """
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.bf16):
            each = self.log_probs(batch, statistics)
            log_probs = each[:, 0] if statistics else each
            if self.tail_weight != 1.0:
                log_probs = log_probs * tail_weights(batch.scored_tokens, len(each), self.tail_weight)
            sums = completion_sums(log_probs, batch.scored_tokens)
            return (sums, each) if tokens or statistics else sums

    def log_probs(self, batch: PackedPairs, statistics: Sequence[str] = ()) -> torch.Tensor:
        """Return (S,) float32 log-probs of the scored tokens, or (S, 1 + statistics)."""
        raise NotImplementedError

    def _run(self, module: nn.Module, inputs: dict[str, Any], once: torch.Tensor) -> Any:
        """Run the model or its body; ``once`` has for each token whether its routers' rows count, 1 or 0."""
        if self.router_sums is None:
            return module(**inputs)
        output = module(**inputs, output_router_logits=True)
        self.router_sums.add(output.router_logits, once.flatten())
        return output


class PackedScorer(Scorer):
    """Scores the row as it lies: no padding, every prompt once."""

    packs = True

    def __init__(self, policy: PreTrainedModel, transform: LogitTransform, bf16: bool) -> None:
        super().__init__(policy, transform, bf16)
        packed.install(causal_lm(policy))

    def log_probs(self, batch: PackedPairs, statistics: Sequence[str] = ()) -> torch.Tensor:  # noqa: D102
        return self.count_and_score(batch, statistics)[0]

    def count_and_score(
        self, batch: PackedPairs, statistics: Sequence[str] = ()
    ) -> tuple[torch.Tensor, Segments]:
        """Return the log-probs and the segments, which counted the attention calls they went through."""
        assert self.transform is not None
        model = causal_lm(self.policy)
        segments = Segments.of(batch.lengths)
        with packed.packing():
            ones = torch.ones_like(batch.input_ids)
            inputs = {
                "input_ids": batch.input_ids[None],
                "position_ids": batch.position_ids[None],
                # Without a mask transformers looks for packed sequences, which waits for the device.
                "attention_mask": ones[None],
                "segments": segments,
                "use_cache": False,
            }
            output = self._run(model.base_model, inputs, ones if batch.tokens else ones * 0)
        hidden = output.last_hidden_state[0].index_select(0, batch.predicting)
        return token_log_probs(hidden, head_of(model), batch.targets, self.transform, statistics), segments


class PaddedScorer(Scorer):
    """An ordinary forward over padded rows, one a completion, for models that cannot take a packed row.

    ``transform`` is None where the way from hidden states to logits is not known; the model then computes its
    logits itself. ``rules`` say which sequences may share a forward pass; without any, all of a micro-batch do.
    """

    packs = False

    def __init__(
        self,
        policy: PreTrainedModel,
        transform: LogitTransform | None,
        bf16: bool,
        rules: Sequence[LengthRule] = (),
    ) -> None:
        super().__init__(policy, transform, bf16)
        self.rules = rules

    def log_probs(self, batch: PackedPairs, statistics: Sequence[str] = ()) -> torch.Tensor:  # noqa: D102
        ids, mask, places = pad(batch)
        once = mask if self.router_sums is None else tokens_once(batch, mask)
        if not self.rules and ids.shape[1] <= MASKED_TOKENS:
            return self._forward(ids, mask, once, places, batch.targets, statistics)
        lengths = [size.prompt + answer for size in batch.lengths for answer in (size.chosen, size.rejected)]
        longest = ids.shape[1]
        row_of, column = places // longest, places % longest
        parts, order = [], []
        for rows in rows_by_group(lengths, [*self.rules, _UNPADDED]):
            self._forget_lengths(ids)
            width = max(lengths[row] for row in rows)
            there = torch.tensor(rows, device=ids.device)
            tokens = torch.isin(row_of, there).nonzero()[:, 0]
            row = torch.searchsorted(there, row_of[tokens])
            parts.append(
                self._forward(
                    ids[there, :width],
                    mask[there, :width],
                    once[there, :width],
                    row * width + column[tokens],
                    batch.targets[tokens],
                    statistics,
                )
            )
            order.append(tokens)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        once: torch.Tensor,
        places: torch.Tensor,
        targets: torch.Tensor,
        statistics: Sequence[str],
    ) -> torch.Tensor:
        """Return (S,) log-probs of the targets, predicted at ``places`` (S,) of the flattened sequences."""
        model = causal_lm(self.policy)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        if self.transform is None:
            logits: torch.Tensor = self._run(model, accepted(model, inputs), once).logits
            return log_probs_of(logits.flatten(0, 1).index_select(0, places).float(), targets, statistics)
        body = model.base_model
        output = self._run(body, accepted(body, inputs), once)
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, places)
        return token_log_probs(hidden, head_of(model), targets, self.transform, statistics)

    def _forget_lengths(self, ids: torch.Tensor) -> None:
        """Run a sequence of one token: dynamic NTK keeps the frequencies of the longest one since a short one."""
        if any(rule.per_length for rule in self.rules):
            body = causal_lm(self.policy).base_model
            with torch.no_grad():
                body(**accepted(body, {"input_ids": ids[:1, :1], "use_cache": False}))


def tail_weights(scored_tokens: torch.Tensor, tokens: int, weight: float) -> torch.Tensor:
    """Return (S,) float32: 1, and ``weight`` for tokens beyond the length of the pair's shorter answer.

    ``scored_tokens`` (P, 2) are the scored tokens of chosen and rejected, ``tokens`` their sum S.
    """
    counts = scored_tokens.flatten()

    def of_tokens(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(counts, output_size=tokens)

    place = torch.arange(tokens, device=counts.device) - of_tokens(counts.cumsum(0) - counts)
    shorter = of_tokens(scored_tokens.amin(1).repeat_interleave(2))
    return torch.where(place < shorter, 1.0, weight)


def accepted(module: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Drop ``use_cache`` where a model has no such argument (some recurrent ones)."""
    parameters = inspect.signature(module.forward).parameters
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return {name: value for name, value in inputs.items() if open_ended or name in parameters}


def tokens_once(batch: PackedPairs, mask: torch.Tensor) -> torch.Tensor:
    """Return (2P, L) int64: 1 at every token that the row of :class:`.PackedPairs` has, the prompt with chosen.

    ``mask`` (2P, L) is that of :func:`pad`. A pair that only fills a micro-batch has none.
    """
    prompts = torch.tensor([size.prompt for size in batch.lengths], device=mask.device)
    once = mask.clone() if batch.tokens else torch.zeros_like(mask)
    once[1::2] *= torch.arange(mask.shape[1], device=mask.device) >= prompts[:, None]
    return once


def pad(batch: PackedPairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unpack a row into right-padded sequences, prompt + completion each.

    Returns ``input_ids`` and ``attention_mask``, (2P, L) int64, chosen before rejected for every pair, and for each of
    the batch's S predicting tokens its place in the flattened (2P * L) sequences, (S,) int64.
    """
    rows: list[torch.Tensor] = []
    places_in_row: list[int] = []
    start = 0
    for size in batch.lengths:
        answer, second = start + size.prompt, start + size.prompt + size.chosen
        end = second + size.rejected
        rows.append(batch.input_ids[start:second])
        rows.append(torch.cat([batch.input_ids[start:answer], batch.input_ids[second:end]]))
        # From a place in the packed row to one in the sequence: chosen stays, rejected moves left.
        places_in_row += [start, start + size.chosen]
        start = end
    longest = max(len(row) for row in rows)
    device = batch.input_ids.device
    ids = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    counts = batch.scored_tokens.reshape(-1)
    row_of = torch.repeat_interleave(torch.arange(len(rows), device=device), counts)
    shift = torch.tensor(places_in_row, device=device)[row_of]
    starts = torch.tensor([0, *[size.total for size in batch.lengths]], device=device).cumsum(0)
    pair_start = starts[row_of // 2]
    prompt = torch.tensor([size.prompt for size in batch.lengths], device=device)[row_of // 2]
    # The prompt's last token predicts both first tokens and did not move.
    inside = torch.where(
        batch.predicting < pair_start + prompt, batch.predicting - pair_start, batch.predicting - shift
    )
    return ids, mask, row_of * longest + inside
