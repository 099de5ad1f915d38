"""The scorer: a module whose forward returns the log-prob sum of each completion of a micro-batch.

Its forward runs in what the processes of a run compute a policy in, which surrounds everything that has gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpotrain.data.batches.packing import PackedPairs
from dpotrain.data.batches.row_slices import RowSlice
from dpotrain.engine.attention import packed
from dpotrain.engine.attention.head_exchange import HeadExchange
from dpotrain.engine.parallel.context import ContextGroup
from dpotrain.engine.parallel.protocol import Computing
from dpotrain.engine.scoring.logprobs import LogitTransform, completion_sums, log_probs_of, token_log_probs
from dpotrain.engine.scoring.padding import Padded, pad
from dpotrain.engine.scoring.rope_scaling import LengthRule
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
    fused_head = False
    """Whether Triton kernels compute the log-probs of logits (see :mod:`dpotrain.engine.kernels.triton_head`)."""
    context: ContextGroup | None = None
    """The processes over which the tokens of a packed row are divided (see :mod:`.divided_rows`); None where this one
    computes whole rows. On each of them the scorer returns all of a micro-batch, with gradients for its own tokens."""
    computing: Computing | None = None
    """What its forward is called by (see :meth:`.protocol.Parallel.computing`); None for nothing."""

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

        def scores() -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            return self._scores(batch, tokens or bool(statistics), statistics)

        if self.computing is None:
            return scores()
        found: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = self.computing(scores)
        return found

    def _scores(
        self, batch: PackedPairs, tokens: bool, statistics: Sequence[str]
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.bf16):
            each = self.log_probs(batch, statistics)
            log_probs = each[:, 0] if statistics else each
            if self.tail_weight != 1.0:
                log_probs = log_probs * tail_weights(batch.scored_tokens, len(each), self.tail_weight)
            sums = completion_sums(log_probs, batch.scored_tokens)
            return (sums, each) if tokens else sums

    def log_probs(self, batch: PackedPairs, statistics: Sequence[str] = ()) -> torch.Tensor:
        """Return (S,) float32 log-probs of the scored tokens, or (S, 1 + statistics)."""
        raise NotImplementedError

    def _run(self, module: nn.Module, inputs: dict[str, Any], once: torch.Tensor) -> Any:
        """Run the model or its body; ``once`` has for each token whether its routers' rows count, 1 or 0."""
        if self.router_sums is None:
            return module(**inputs)
        output = module(**inputs, output_router_logits=True)
        self.router_sums.add(output.router_logits, once.flatten(), self.context)
        return output


class PackedScorer(Scorer):
    """Scores the row as it lies: no padding, every prompt once."""

    packs = True

    def __init__(self, policy: PreTrainedModel, transform: LogitTransform, bf16: bool) -> None:
        super().__init__(policy, transform, bf16)
        packed.install(causal_lm(policy))

    def log_probs(self, batch: PackedPairs, statistics: Sequence[str] = ()) -> torch.Tensor:  # noqa: D102
        if self.context is not None:
            return self._log_probs_of_slice(batch, self.context, statistics)
        once = torch.ones_like(batch.input_ids) if batch.tokens else torch.zeros_like(batch.input_ids)
        hidden = self._hidden(batch.input_ids, batch.position_ids, once, segments=batch.segments)
        return self._of_predicted(hidden.index_select(0, batch.predicting), batch.targets, statistics)

    def _log_probs_of_slice(
        self, batch: PackedPairs, context: ContextGroup, statistics: Sequence[str]
    ) -> torch.Tensor:
        """Return what :meth:`log_probs` does, each rank of the group having computed a part of the row's tokens."""
        own = RowSlice.of(batch, context.rank, context.size)
        hidden = self._hidden(
            own.input_ids,
            own.position_ids,
            own.own if batch.tokens else torch.zeros_like(own.own),
            segments=batch.segments,
            exchange=HeadExchange(context, len(batch.input_ids)),
        )
        found = self._of_predicted(hidden.index_select(0, own.predicting), own.targets, statistics)
        found = found[: len(own.scored)]
        of_row = found.new_zeros(len(batch.targets), *found.shape[1:])
        return context.total(of_row.index_copy(0, own.scored, found))

    def _hidden(
        self, ids: torch.Tensor, positions: torch.Tensor, once: torch.Tensor, **attention: Any
    ) -> torch.Tensor:
        """Return the last hidden states of some of a row's tokens, (tokens, hidden size).

        ``once`` (tokens,) is as in :meth:`_run`; ``attention`` has what the attention function is given besides.
        """
        inputs = {
            "input_ids": ids[None],
            "position_ids": positions[None],
            # Without a mask transformers looks for packed sequences, which waits for the device.
            "attention_mask": torch.ones_like(ids)[None],
            "use_cache": False,
            **attention,
        }
        with packed.packing():
            output = self._run(causal_lm(self.policy).base_model, inputs, once)
        states: torch.Tensor = output.last_hidden_state[0]
        return states

    def _of_predicted(
        self, hidden: torch.Tensor, targets: torch.Tensor, statistics: Sequence[str]
    ) -> torch.Tensor:
        assert self.transform is not None
        head = head_of(causal_lm(self.policy))
        return token_log_probs(hidden, head, targets, self.transform, statistics, fused=self.fused_head)


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
        parts, order = pad(batch, [*self.rules, _UNPADDED])
        found = []
        for part in parts:
            self._forget_lengths(part.ids)
            targets = batch.targets if order is None else batch.targets[part.scored]
            found.append(self._forward(part, targets, statistics))
        return found[0] if order is None else torch.cat(found)[order]

    def _forward(self, part: Padded, targets: torch.Tensor, statistics: Sequence[str]) -> torch.Tensor:
        """Return (N,) log-probs of the targets (N,), which the part's sequences predict."""
        model = causal_lm(self.policy)
        inputs: dict[str, Any] = {"input_ids": part.ids, "attention_mask": part.mask, "use_cache": False}
        if self.transform is None:
            logits: torch.Tensor = self._run(model, accepted(model, inputs), part.once).logits
            rows = logits.flatten(0, 1).index_select(0, part.places)
            return log_probs_of(rows.float(), targets, statistics)
        body = model.base_model
        output = self._run(body, accepted(body, inputs), part.once)
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, part.places)
        head = head_of(model)
        return token_log_probs(hidden, head, targets, self.transform, statistics, fused=self.fused_head)

    def _forget_lengths(self, ids: torch.Tensor) -> None:
        """Run a sequence of one token: dynamic NTK keeps the frequencies of the longest one since a short one."""
        if any(rule.per_length for rule in self.rules):
            body = causal_lm(self.policy).base_model
            one = ids[:1, :1]
            # Without a mask transformers looks for packed sequences, which waits for the device.
            inputs = {"input_ids": one, "attention_mask": torch.ones_like(one), "use_cache": False}
            with torch.no_grad():
                body(**accepted(body, inputs))


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
