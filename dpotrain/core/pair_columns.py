"""Columns of the data that dpotrain itself reads, where ``[data.columns]`` maps them: numbers of a pair."""

from __future__ import annotations

import math

#: What the engine makes of the loss: see :func:`dpotrain.engine.scoring.objective.pair_losses`.
APPLIED = ("weight", "margin", "label_probability")

#: Log-prob sums under the reference, nats, computed by somebody already.
REFERENCE = ("reference_chosen", "reference_rejected")

PAIR_COLUMNS = (*APPLIED, *REFERENCE)

#: The least and the largest number that a column may have; others may have any.
RANGES = {
    "weight": (0.0, math.inf),
    "label_probability": (0.0, 1.0),
    "reference_chosen": (-math.inf, 0.0),
    "reference_rejected": (-math.inf, 0.0),
}
