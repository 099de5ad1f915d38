"""The loss of the first step, which is known where policy and reference are one model."""

from __future__ import annotations

from dpotrain.core.errors import RunError

#: How far the first loss may be from its exact value, as a share of it where that is above one. A live reference is
#: exact (the tests hold it to 1e-6 in float32); stored log-probs were computed in micro-batches of another shape,
#: which rounds differently, with a beta that may be large and pairs that may be few. A reference that is not the
#: initial policy, or a prompt that went missing, is off by far more.
FIRST_LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


def check_first_loss(loss: float, expected: float, precision: str, label: str) -> None:
    """Compare the first step's loss with what it must be, which the loss called ``label`` says.

    Raises:
        RunError: it is another; nothing was updated yet.
    """
    if abs(loss - expected) > FIRST_LOSS_TOLERANCE[precision] * max(1.0, abs(expected)):
        raise RunError(
            f"the first loss is {loss:.6f}, but before the first update policy and reference are one model, "
            f"so it must be {expected:.6f}; nothing was updated.\n"
            "Likely causes: a model whose forward is not deterministic, stored reference log-probs of other "
            "weights\n(remove the folder of reference.store or run.cache_dir), a plugin that changed the policy "
            f"as the run started,\nor a wrong first_loss of {label}."
        )
