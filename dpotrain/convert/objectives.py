"""The losses of TRL's DPOTrainer as a recipe has them, for TRL itself and for tools that train with it."""

from __future__ import annotations

from dpotrain.convert.translation import Given, Translation, choose_loss
from dpotrain.recipe.foreign import Gap

#: By TRL's name. Its "sft" is missing: a mean over the tokens of a batch, which here is over those of each answer.
TRL_LOSSES = {
    "sigmoid": "dpo",
    "ipo": "ipo",
    "hinge": "hinge",
    "robust": "robust",
    "exo_pair": "exo",
    "sigmoid_norm": "dpo-norm",
    "nca_pair": "nca",
    "bco_pair": "bco",
    "sppo_hard": "sppo",
    "apo_zero": "apo-zero",
    "apo_down": "apo-down",
    "discopop": "discopop",
    "aot": "aot",
    "aot_unpaired": "aot-unpaired",
}
#: Losses with label smoothing, here; TRL reads it for all of them but its sigmoid.
_SMOOTHED = ("dpo", "robust", "exo")


def trl_loss(t: Translation, given: Given) -> None:
    """Write ``[loss]`` from ``loss_type`` and the keys that go with it.

    Raises:
        RecipeError: dpotrain has no such loss.
    """
    name = choose_loss(t, given, TRL_LOSSES)
    t.put("loss.use", name, given)
    t.move("loss.beta", "beta")
    smoothing = t.take("label_smoothing")
    if smoothing is not None and smoothing.value:
        if name in _SMOOTHED:
            t.put("loss.label_smoothing", smoothing.value, smoothing)
        else:
            t.leave(smoothing, Gap.NOT_NEEDED, f"TRL ignores it with loss_type {given.value}")
    elif name == "robust":
        t.draft.set("loss.label_smoothing", 0.0, "label_smoothing, TRL's default")
    tau = t.take("discopop_tau")
    if tau is not None:
        if name == "discopop":
            t.put("loss.tau", tau.value, tau)
        else:
            t.leave(tau, Gap.NOT_NEEDED, f"TRL ignores it with loss_type {given.value}")
