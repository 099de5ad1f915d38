"""Activation checkpointing by layer: of the first k decoder layers only the inputs are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from dpotrain.core.errors import RunError
from dpotrain.engine.scoring.dropout import may_draw
from dpotrain.engine.scoring.scorer import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder_layers(model: nn.Module) -> list[Any]:
    """Return the layers that can be checkpointed one by one, in order; none within another."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not any(
            name.startswith(f"{other}.") for other in found
        ):
            found[name] = module
    return list(found.values())


def can_checkpoint(policy: nn.Module) -> bool:
    """Whether the model's class offers checkpointing at all."""
    return bool(getattr(causal_lm(policy), "supports_gradient_checkpointing", False))


def wanted_layers(policy: nn.Module, wanted: bool | int) -> int:
    """Return the number of layers that ``training.activation_checkpointing`` sets.

    Raises:
        RunError: the model cannot be checkpointed, not layer by layer, or has fewer layers.
    """
    if wanted is False or wanted == 0:
        return 0
    model, layers = causal_lm(policy), decoder_layers(policy)
    if not can_checkpoint(policy):
        raise RunError(
            f"{type(model).__name__} does not support activation checkpointing.\n"
            'Leave training.activation_checkpointing out ("auto" uses it only where a model supports it).'
        )
    if wanted is True:
        return len(layers) or int(model.config.get_text_config().num_hidden_layers)
    if not layers:
        raise RunError(
            f"{type(model).__name__} can be checkpointed as a whole only; set "
            "training.activation_checkpointing = true."
        )
    if wanted > len(layers):
        raise RunError(
            f"training.activation_checkpointing = {wanted}, but {type(model).__name__} has {len(layers)} layers; "
            f"set a number up to {len(layers)}, or true for all."
        )
    return wanted


def checkpoint_layers(policy: PreTrainedModel, count: int) -> None:
    """Have the first ``count`` layers recompute their activations in the backward pass.

    The first, because the last layers' activations are used and freed first: the memory for recomputing the first
    ones is then free already.
    """
    if not count:
        return
    model: Any = causal_lm(policy)
    # A layer that draws no random numbers needs no random state to be computed again.
    how = {"use_reentrant": False, "preserve_rng_state": may_draw(policy)}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(how)
    else:  # transformers before 5.20 or so
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    # Only reentrant checkpoints need inputs with gradients, which would take the backward pass through frozen layers.
    model.disable_input_require_grads()
    for number, layer in enumerate(decoder_layers(policy)):
        layer.gradient_checkpointing = number < count
