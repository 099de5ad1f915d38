"""How many tokens a micro-batch may hold, where the recipe leaves it to us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: On a CPU the matrix products are at full speed long before this; more tokens would only take memory.
CPU_TOKENS = 2048
MOST_TOKENS = 65536
#: Share of the free memory that activations may take; the rest is for the head's chunks, the optimizer's
#: first step and fragmentation.
SHARE = 0.5


def tokens_per_microbatch(
    model: PreTrainedModel, device: torch.device, checkpointing: bool, max_length: int, bf16: bool
) -> int:
    """Estimate from the device's free memory, with the weights loaded and no optimizer state yet.

    At least one completion of full length fits by intention: a longer pair gets a micro-batch of its own
    anyway.
    """
    if device.type != "cuda":
        return CPU_TOKENS
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    free, _ = torch.cuda.mem_get_info(device)
    # Gradients and two moments, in float32 at the most.
    room = SHARE * (free - 12 * trained)
    fitting = int(room / bytes_per_token(model, checkpointing, bf16))
    return max(max_length, min(MOST_TOKENS, fitting))


def bytes_per_token(model: PreTrainedModel, checkpointing: bool, bf16: bool) -> int:
    """Estimate what a token's activations hold until the backward pass, in bytes.

    Per layer, in units of the hidden size h and the feed-forward size f: two norms' inputs in float32 and
    their outputs (12 h), queries, keys, values, output (8 h), residual sums (4 h), gate, up and product (6
    f). Checkpointed layers keep their input (2 h), and one layer at a time the rest.
    """
    config = model.config.get_text_config()
    hidden = int(config.hidden_size)
    feed_forward = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    layers = int(config.num_hidden_layers)
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    layer = 24 * hidden + 6 * feed_forward * experts
    total = layers * 2 * hidden + layer if checkpointing else layers * layer
    return total if bf16 else 2 * total
