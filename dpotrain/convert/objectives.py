"""The losses of TRL's DPOTrainer as a recipe has them, for TRL itself and for tools that train with it."""

from __future__ import annotations

from collections.abc import Sequence

from dpotrain.convert.dialect import TRL_LOSSES, Batch, Dialect, ignored
from dpotrain.convert.divergence import set_divergence
from dpotrain.convert.terms import Term, write_terms
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap

#: Losses with label smoothing, here; TRL reads it for all of them but its sigmoid.
_SMOOTHED = ("dpo", "robust", "exo", "aot", "aot-unpaired")
#: Losses that sort the pairs, so that a pair's loss is not its own.
_SORTED = ("aot", "aot-unpaired")


def trl_objective(
    t: Translation,
    given: Given,
    batch: Batch,
    dialect: Dialect,
    *,
    weights: str = "loss_weights",
    beta: Given | None = None,
    smoothing: str = "label_smoothing",
    weighting: str = "use_weighting",
) -> None:
    """Write ``[loss]`` from ``loss_type`` and the keys that go with it.

    Args:
        t: what is translated.
        given: the key with the name of the loss, or a list of names.
        batch: what the tool computes one loss of.
        dialect: how its trainer does.
        weights: its key for the weights of several losses.
        beta: its beta; the key ``beta`` unless given.
        smoothing: its key for label smoothing.
        weighting: its key for the weights of WPO.

    Raises:
        RecipeError: dpotrain has no such loss, or not with these keys.
    """
    terms = _named(t, given, t.take(weights))
    beta = beta or t.take("beta")
    for term in terms:
        if term.loss == "sft":
            _supervised(t, term, batch)
        elif beta is not None:
            term.set("beta", beta.value, beta)
        if term.loss == "bco":
            _running_mean(t, term, dialect)
        if term.loss in _SORTED and not batch.whole:
            t.notes.append(
                f"{term.given.key} {term.loss.replace('-', '_')}: {t.tool.name} sorts the {batch.pairs} pairs of a "
                "batch on one device; dpotrain all pairs of the step"
            )
    _smoothing(t, terms, t.take(smoothing))
    _temperature(t, terms)
    _reference_free(t, terms)
    set_divergence(t, terms, dialect)
    supervised = t.take("rpo_alpha")
    if supervised is not None and supervised.value:
        comment = f"the NLL of chosen answers, {supervised.key}"
        term = Term("sft", supervised, number(t, supervised), comment=comment)
        _supervised(t, term, batch)
        terms.append(term)
    weighted = _weighting(t, terms, t.take(weighting), dialect)
    write_terms(t, terms)
    _discount(t, terms, weighted, dialect)


def number(t: Translation, given: Given) -> float:
    """Return a weight of the loss.

    Raises:
        RecipeError: it is no number above 0.
    """
    if isinstance(given.value, bool) or not isinstance(given.value, int | float) or given.value <= 0:
        raise t.refuse(given, "a number above 0 is expected", optional=True)
    return given.value


def discount(t: Translation, given: Given) -> None:
    """Write ``loss.tail_weight`` for a tool that takes ``ld_alpha`` to the policy's log-probs alone."""
    t.put("loss.tail_weight", given.value, given)
    if given.value != 1:
        t.notes.append(
            f"{given.key}: {t.tool.name} discounts the policy's log-probs alone, so that the loss does not begin at "
            "that of equal models; dpotrain discounts the reference's, too, as TRL 1.16 does"
        )


def _named(t: Translation, given: Given, weights: Given | None) -> list[Term]:
    """Return the losses of a name or a list of names; those of weight 0 are left out."""
    names = given.value if isinstance(given.value, list) else [given.value]
    for name in names or [""]:
        if TRL_LOSSES.get(str(name)) not in t.losses:
            raise t.refuse(given, f"dpotrain has no such loss; it has {', '.join(t.losses)}")
    counts = [1] * len(names)
    if weights is not None:
        counts = weights.value if isinstance(weights.value, list) else [weights.value]
        numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in counts)
        if not numbers or len(counts) != len(names) or min(counts) < 0 or max(counts) == 0:
            raise t.refuse(weights, "a number for each loss is expected, none below 0 and not all 0")
        t.translated[weights.key] = "[[loss.terms]]" if counts != [1] else "loss.use"
    terms = []
    for name, count in zip(names, counts, strict=True):
        if count:
            key = weights.key if weights is not None else ""
            terms.append(Term(TRL_LOSSES[str(name)], given, count, key))
        elif weights is not None:
            t.notes.append(f"{weights.key}: {name} has weight 0 and is left out")
    return terms


def _supervised(t: Translation, term: Term, batch: Batch) -> None:
    """Choose what the NLL is a mean over: the tool's is over the chosen tokens of a batch."""
    if batch.pairs == 1:
        term.set("per", "pair", term.given, f"a batch of {t.tool.name} is one pair")
        return
    term.set("per", "token", term.given, 'over the step\'s tokens, at one forward more; "pair" costs none')
    if not batch.whole:
        t.notes.append(
            f"{term.given.key}: {t.tool.name} takes the NLL's mean over the tokens of each batch of {batch.pairs} "
            "pairs on one device; dpotrain over those of the whole step"
        )


def _running_mean(t: Translation, term: Term, dialect: Dialect) -> None:
    if not dialect.running_mean:
        term.set("running_mean", False, term.given, f"{t.tool.name}'s bco_pair takes none off the rewards")
        return
    term.set("running_mean", True, term.given, "it costs one forward more")
    t.notes.append(
        f"bco_pair: {t.tool.name} updates the mean reward with every batch; dpotrain with every step"
    )


def _smoothing(t: Translation, terms: Sequence[Term], given: Given | None) -> None:
    smoothed = [term for term in terms if term.loss in _SMOOTHED]
    if given is None or not given.value:
        for term in smoothed:
            if term.loss == "robust":
                term.set("label_smoothing", 0.0, given or Given("label_smoothing", 0.0, t.tool.name))
        return
    for term in smoothed:
        term.set("label_smoothing", given.value, given)
    if not smoothed:
        t.leave(given, Gap.NOT_NEEDED, ignored(t, terms))


def _temperature(t: Translation, terms: Sequence[Term]) -> None:
    given = t.take("discopop_tau")
    if given is None:
        return
    modulated = [term for term in terms if term.loss == "discopop"]
    for term in modulated:
        term.set("tau", given.value, given)
    if not modulated:
        t.leave(given, Gap.NOT_NEEDED, ignored(t, terms))


def _reference_free(t: Translation, terms: Sequence[Term]) -> None:
    """Write ``cpo`` without its NLL, which is sigmoid DPO without a reference."""
    given = t.take("reference_free")
    if given is None or not given.value:
        return
    for term in terms:
        if term.loss == "sft":
            continue
        if term.loss != "dpo" or "label_smoothing" in term.keys:
            reason = "only sigmoid without label smoothing has a counterpart without a reference, cpo with weight = 0"
            raise t.refuse(given, reason, optional=True)
        term.loss, term.comment = "cpo", f"sigmoid, {given.key}"
        term.set("weight", 0.0, given, "without an NLL term")
    t.translated[given.key] = "loss.use"


def _weighting(t: Translation, terms: Sequence[Term], given: Given | None, dialect: Dialect) -> Given | None:
    """Weigh the losses as WPO does; return the key where it counts."""
    if given is None or not given.value:
        return None
    if not dialect.weighs:
        t.leave(given, Gap.NOT_NEEDED, f"{t.tool.name}'s DPO trainer does not read it")
        return None
    if any(term.loss in _SORTED for term in terms):
        raise t.refuse(given, "sorted losses have no weight of a pair, in TRL neither", optional=True)
    by_token = [term for term in terms if term.keys.get("per", ("",))[0] == "token"]
    if len(by_token) == len(terms):
        raise t.refuse(
            given, "a mean over the tokens of several pairs has no weight of a pair", optional=True
        )
    for term in terms:
        if term not in by_token:
            term.set("weighting", "wpo", given)
    if by_token:
        t.notes.append(f"{given.key}: the NLL over tokens is not weighted; TRL 1.16 has no loss of both")
    return given


def _discount(t: Translation, terms: Sequence[Term], weighted: Given | None, dialect: Dialect) -> None:
    given = t.take("ld_alpha")
    if given is None:
        return
    if weighted is not None and given.value != 1:
        raise t.refuse(
            given, f"it does not combine with {weighted.key}, which weighs tokens alike", optional=True
        )
    if not dialect.discounts_reference:
        discount(t, given)
    else:
        t.put("loss.tail_weight", given.value, given)
    if given.value != 1 and any(term.loss == "sft" for term in terms):
        t.notes.append(
            f"{given.key}: {t.tool.name}'s NLL counts all tokens alike; in dpotrain it is discounted, too"
        )
