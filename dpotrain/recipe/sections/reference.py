"""The table ``[reference]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dpotrain.plugin.api import Quantizer
from dpotrain.plugin.api.nested import Use
from dpotrain.recipe.sections.base import Section

#: ``reference.of`` for the policy before training.
INITIAL_POLICY = "initial-policy"


class ReferenceUpdate(Section):
    """How a reference follows the policy (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656)."""

    every: int = Field(ge=1, description="Number of steps between updates.")
    share: float = Field(
        gt=0, le=1, description="Share of the policy in the reference after an update; 1 replaces it."
    )


class ReferenceSection(Section):
    """The reference model, which the loss compares the policy with."""

    of: str = Field(
        INITIAL_POLICY,
        description='"initial-policy" (the policy before training), or hub name or folder of another model, '
        "which is loaded with `reference.quantizer`, not with `[quantizer]`.",
    )
    quantizer: Use[Quantizer] | None = Field(
        None,
        description='Loads the model of `reference.of` in fewer bits: a quantizer\'s name, or `{ use = "…", … }` with '
        "its options.",
    )
    when: Literal["auto", "live", "precomputed"] = Field(
        "auto",
        description='When its log-probs are computed: "live" in every step, "precomputed" once before training, for '
        'pairs that are not stored yet. "auto" is "precomputed"; with an adapter that adds '
        'weights, such as lora, and one epoch it is "live", unless all pairs are stored; with `update` it is always '
        '"live".',
    )
    store: Path | None = Field(
        None,
        description="Folder of precomputed log-probs, shared between runs; in `run.cache_dir` unless set.",
    )
    update: ReferenceUpdate | None = Field(
        None,
        description="`{ every = 512, share = 0.6 }`: after every 512 steps the reference becomes 0.6 times the policy "
        "plus 0.4 times itself; `share = 1` replaces it (TR-DPO, arXiv 2404.09656).",
    )
