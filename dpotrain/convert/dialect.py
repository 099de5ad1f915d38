"""The losses of TRL's DPOTrainer, and how other tools' trainers compute what its keys say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpotrain.convert.terms import Term
from dpotrain.convert.translation import Translation

#: By TRL's name.
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
    "sft": "sft",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a tool's DPO trainer computes what TRL's keys say. The defaults are TRL 1.16."""

    diverged: tuple[str, ...] = ("dpo", "dpo-norm", "hinge", "ipo", "exo", "robust", "discopop")
    """Losses that f_divergence_type is applied to."""
    refuses_divergence: bool = True
    """Whether others are refused with it, rather than computed without."""
    own_alpha: bool = False
    """Whether f_alpha_divergence_coef is the alpha here, and not 1 less it."""
    running_mean: bool = False
    """Whether bco_pair takes the running mean of the rewards off them."""
    weighs: bool = True
    """Whether use_weighting is read."""
    discounts_reference: bool = True
    """Whether ld_alpha counts in the reference's log-probs, too."""
    divergences: tuple[str, ...] = ("forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True, slots=True)
class Batch:
    """What the tool computes one loss of."""

    pairs: int
    whole: bool
    """Whether it is the whole step: nothing is accumulated, and there is one process."""


def ignored(t: Translation, terms: Sequence[Term]) -> str:
    """Return why a key is not needed beside these losses."""
    theirs = {here: there for there, here in TRL_LOSSES.items()}
    names = ", ".join(theirs.get(term.loss, term.loss) for term in terms)
    return f"{t.tool.name} ignores it with {terms[0].given.key} {names}"
