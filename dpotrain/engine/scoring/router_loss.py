"""The load-balancing loss of a mixture of experts, over all tokens of a step.

It is that of Switch Transformers (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6) for k experts a token, as
transformers' ``load_balancing_loss_func`` has it. A row is one token at one router; those of all layers are taken
together. Of E experts, f_e is the share of rows among whose k likeliest experts e is, P_e the mean over the rows of e's
probability (a softmax over the router's logits):

    loss = E * sum over e of f_e * P_e

It is k where the load is balanced; f has no gradient. Elsewhere its rows are those of a micro-batch, padding and all;
here they are those of the step, over all processes (as Qiu et al. 2025, arXiv:2501.11873, recommend): every token of a
pair is one row of each router, the prompt's, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dpotrain.core.errors import RunError, describe_exception
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.scoring.dropout import dropout_off
from dpotrain.engine.scoring.padding import pad
from dpotrain.engine.scoring.router_sums import RouterSums
from dpotrain.engine.scoring.scorer import Scorer, accepted, causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Where models of transformers have the loss's weight of their configuration.
_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
#: Relative differences between transformers' loss and ours that rounding explains, by whether weights are float32.
_ROUNDING = {True: 1e-4, False: 1e-2}


@dataclass(frozen=True, slots=True)
class Routing:
    """What of a model and a recipe the loss follows from."""

    weight: float
    """Of the loss, beside the preference loss."""
    experts: int
    """E: the experts of each router."""
    chosen: int
    """k: the experts that compute a token."""
    layers: int
    """Decoder layers, each with a router."""

    @classmethod
    def of(cls, policy: PreTrainedModel, weight: float | str) -> Routing | None:
        """Return how a model, with or without its weights, is to be balanced; None where it is not.

        ``weight`` is ``training.router_loss_weight``. "auto" is the weight of the model's configuration, 0 where it has
        none. Its ``output_router_logits`` does not matter: published models have it off, which is right for inference.

        Raises:
            RunError: the recipe sets a weight, and transformers has no such loss for the model.
        """
        model = causal_lm(policy)
        own = next((value for name in _WEIGHTS if (value := getattr(model, name, None)) is not None), None)
        experts, chosen = (getattr(model, name, None) for name in ("num_experts", "num_experts_per_tok"))
        # A mixture of one expert, or of none, is a dense model of the same class.
        balances = own is not None and isinstance(experts, int) and experts > 1 and isinstance(chosen, int)
        if weight == "auto":
            weight = float(own) if own is not None and balances else 0.0
        if not float(weight):
            return None
        if not balances:
            raise RunError(
                f"training.router_loss_weight = {float(weight):g}, but transformers has no load-balancing loss for "
                f"{type(model).__name__}: it has no routers, or balances them otherwise.\nLeave the key out."
            )
        layers = int(model.config.get_text_config().num_hidden_layers)
        return cls(float(weight), int(experts), int(chosen), layers)  # type: ignore[arg-type]

    @property
    def bytes_per_token(self) -> int:
        """What is kept of a token for the backward pass: its probabilities at a router of each layer, in float32."""
        return 4 * self.experts * self.layers

    def no_rows(self, device: torch.device) -> RouterSums:
        """Return sums to add to."""
        return RouterSums.of_no_row(self.experts, self.chosen, device)


@dataclass(frozen=True, slots=True)
class RouterLoss:
    """The loss of a policy's routers."""

    routing: Routing
    scorer: Scorer
    """The policy's, not wrapped for data parallelism."""

    def fault(self, sample: PackedPairs) -> str:
        """Return how it differs from transformers' own loss on ``sample``; empty where it is the same."""
        policy, routing, device = self.scorer.policy, self.routing, sample.input_ids.device
        (part,), _ = pad(sample)
        mask = part.mask
        model, inputs = causal_lm(policy), {"input_ids": part.ids, "attention_mask": mask, "use_cache": False}
        sums = routing.no_rows(device)
        try:
            with (
                dropout_off(policy),
                torch.no_grad(),
                torch.autocast(device.type, torch.bfloat16, enabled=self.scorer.bf16),
            ):
                output = model(**accepted(model, inputs), output_router_logits=True)
            sums.add(output.router_logits, mask.flatten())
            expected = float(output.aux_loss)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            return f"it does not return its routers' logits ({describe_exception(error)})"
        got = float(sums.loss(sums.probabilities))
        exact = all(weight.dtype == torch.float32 for weight in model.parameters()) and not self.scorer.bf16
        if abs(got - expected) <= _ROUNDING[exact] * expected:
            return ""
        return f"transformers' loss of its routers is another ({expected:.6g}, not {got:.6g})"


@contextmanager
def summing(loss: RouterLoss | None, device: torch.device) -> Iterator[RouterSums | None]:
    """Return the context in which a policy's routers, on ``device``, add their rows to what it yields.

    None without a router loss.
    """
    if loss is None:
        yield None
        return
    scorer = loss.scorer
    scorer.router_sums = loss.routing.no_rows(device)
    try:
        yield scorer.router_sums
    finally:
        scorer.router_sums = None
