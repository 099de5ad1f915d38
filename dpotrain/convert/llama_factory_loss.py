"""LLaMA-Factory's ``pref_loss``, and the terms beside it."""

from __future__ import annotations

from dpotrain.convert.objectives import discount, number
from dpotrain.convert.terms import Term, write_terms
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

_LOSSES = {"sigmoid": "dpo", "ipo": "ipo", "hinge": "hinge", "simpo": "simpo", "orpo": "orpo"}


def loss(t: Translation) -> None:
    """Write ``[loss]``.

    Raises:
        RecipeError: dpotrain has no such loss.
    """
    given = t.take("pref_loss")
    assert given is not None  # it has a default
    name = _LOSSES.get(str(given.value), "")
    if name not in t.losses:
        raise t.refuse(given, f"dpotrain has no such loss; it has {', '.join(t.losses)}")
    term = Term(name, given)
    beta = t.take("pref_beta")
    assert beta is not None  # it has a default
    term.set("weight" if name == "orpo" else "beta", beta.value, beta)
    for key, here, only in (
        ("dpo_label_smoothing", "label_smoothing", "dpo"),
        ("simpo_gamma", "gamma", "simpo"),
    ):
        of_it = t.take(key)
        if of_it is None or (only == "dpo" and not of_it.value):
            continue
        if name == only:
            term.set(here, of_it.value, of_it)
        else:
            t.leave(of_it, Gap.NOT_NEEDED, f"LLaMA-Factory ignores it with pref_loss {given.value}")
    terms = [term, *_classifier(t, term, beta)]
    supervised = t.take("pref_ftx")
    if supervised is not None and supervised.value:
        comment = "the NLL of chosen answers, pref_ftx"
        terms.append(Term("sft", supervised, number(t, supervised), comment=comment))
    write_terms(t, terms)
    if (tail := t.take("ld_alpha")) is not None:
        discount(t, tail)


def _classifier(t: Translation, term: Term, beta: Given) -> list[Term]:
    """Return the BCO term, and weigh the other: LLaMA-Factory divides their sum by that of their weights."""
    given = t.take("pref_bco_weight")
    if given is None or not given.value:
        return []
    if term.loss in ("simpo", "orpo"):
        t.leave(given, Gap.NOT_NEEDED, f"LLaMA-Factory ignores it with pref_loss {term.given.value}")
        return []
    if term.loss == "ipo":
        raise t.refuse(given, "beside ipo it is of log-probs per token, which bco is not", optional=True)
    share = number(t, given)
    term.weight = 1 / (1 + share)
    term.weight_key = "1 / (1 + pref_bco_weight)"
    bco = Term("bco", given, share / (1 + share), "pref_bco_weight / (1 + pref_bco_weight)")
    bco.set("beta", beta.value, beta)
    t.notes.append(
        "pref_bco_weight: LLaMA-Factory updates the mean reward with every batch; dpotrain with every step, at one "
        "forward more"
    )
    return [bco]
