"""The table ``[training]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpotrain.recipe.sections.base import Section


class TrainingSection(Section):
    """Length, step size, precision and memory of the training."""

    epochs: int = Field(1, ge=1, description="Passes over the training pairs.")
    steps: int | None = Field(None, ge=1, description="Stop after this many steps, even within an epoch.")
    pairs_per_step: int = Field(64, ge=1, description="Pairs in one optimizer update, over all processes.")
    tokens_per_microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Tokens in one forward and backward pass; changes speed and memory, not results."
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16",
        description='"bf16" runs under bfloat16 autocast, or, on a processor without products in bfloat16, '
        'in float32. "fp32" computes in the dtype of the weights, which are upcast where it is float16.',
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Gradients are clipped to this norm; `false` does not clip."
    )
    router_loss_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Weight of the load-balancing loss of a mixture of experts, as transformers defines it, over all "
        'tokens of a step. "auto" is the weight of the model\'s configuration (`router_aux_loss_coef`), 0 is without. '
        "The metric is `router_loss`; it is not part of `loss`.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description='What to do where a step\'s loss or gradient norm is not finite: "stop" saves and ends the run, '
        '"skip" skips the step. Its pairs are written to `nonfinite_pairs.jsonl`.',
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description='"auto" packs pairs without padding if a check of the model passes, "on" fails if it does not; '
        '"off" pads.',
    )
    activation_checkpointing: bool | Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Layers whose activations are recomputed in the backward pass: less memory, more time, the "
        'same results. "auto" uses as few as the longest pair needs to fit, and on a GPU micro-batches of 8,192 '
        "tokens, which fewer would not keep busy; true uses all. Where the longest pair does not fit with all of them, "
        "or as many as are set, norms and feed-forward blocks compute long rows in tiles of tokens.",
    )
    activation_offload: bool | Literal["auto"] = Field(
        "auto",
        description="Keep the inputs of checkpointed layers in the host's memory until the backward pass: less memory "
        'of a GPU, the same results. "auto" does so where the longest pair would not fit otherwise; true always, with '
        "all layers checkpointed unless `activation_checkpointing` sets their number. Without effect on a CPU.",
    )
    compile: bool = Field(
        False,
        description="Compile each decoder layer to one graph (torch.compile): a slow start, then faster on a GPU; "
        "needs a compiler.",
    )

    @model_validator(mode="after")
    def _offloads_what_is_kept(self) -> TrainingSection:
        if self.activation_offload is True and self.activation_checkpointing is False:
            raise ValueError(
                "activation_offload = true moves the inputs of checkpointed layers, and activation_checkpointing = "
                'false leaves none; set it to true or "auto"'
            )
        return self
