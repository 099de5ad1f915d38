"""The gradient of a head that is tied to the embedding, added up in one tensor.

Autograd would have two of the size of the vocabulary times that of the hidden states, one of the head and one of the
embedding, which has rows for the tokens of the micro-batch alone; with a small model, that is the peak of a step. Here
the embedding adds its rows to the head's gradient, in place.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def share_gradient(model: PreTrainedModel) -> bool:
    """Replace the forward of a model's embedding, in place, where its head is tied to it; return whether it is.

    Only a plain embedding with float32 weights: in bfloat16 the order in which numbers are added would matter more.
    State and the class for ``isinstance`` stay. Whoever uses the head has to ask :func:`head_of` for it.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear:
        return False
    if head.weight is not embedding.weight or embedding.weight.dtype != torch.float32:
        return False
    if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse:
        return False
    if embedding._forward_hooks or embedding._forward_pre_hooks or "forward" in vars(embedding):
        return False
    embedding.__class__ = type("Embedding", (_TiedEmbedding, nn.Embedding), {"__module__": __name__})
    return True


def head_of(model: PreTrainedModel) -> nn.Module:
    """Return the head of a model that has just computed hidden states.

    Where it shares its gradient with the embedding, that is a head whose weight is what the embedding handed on, and
    serves this forward pass only.
    """
    head: nn.Module = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, _TiedEmbedding) or embedding.table is None:
        return head
    tied = copy.copy(head)
    tied._parameters = {name: weight for name, weight in head._parameters.items() if name != "weight"}
    # A tensor in the place of the parameter.
    tied.weight, embedding.table = embedding.table, None
    return tied


class _TiedEmbedding:
    """The forward of an embedding, which hands its weight on to the head."""

    table: torch.Tensor | None = None
    """The weight for the head, as an output of the embedding's own function, so that its gradient comes back there."""
    weight: nn.Parameter
    padding_idx: int | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.table = None
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return F.embedding(input, self.weight, self.padding_idx)
        rows: torch.Tensor
        rows, self.table = _Lookup.apply(input, self.weight, self.padding_idx)  # type: ignore[no-untyped-call]
        return rows


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, weight: torch.Tensor, padding: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(tokens)
        ctx.words, ctx.padding = len(weight), padding
        ctx.set_materialize_grads(False)
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    def backward(
        ctx: Any, of_rows: torch.Tensor | None, of_table: torch.Tensor | None
    ) -> tuple[None, torch.Tensor | None, None]:
        (tokens,) = ctx.saved_tensors
        if of_rows is None:
            return None, of_table, None
        steep = of_rows.flatten(0, -2)
        if ctx.padding is not None:
            steep = steep.masked_fill((tokens.flatten() == ctx.padding)[:, None], 0.0)
        if of_table is None:
            of_table = steep.new_zeros(ctx.words, steep.shape[-1])
        # Nobody else has it: the head's function made it, and its weight is this function's output.
        return None, of_table.index_put_((tokens.flatten(),), steep, accumulate=True), None
