"""``f_divergence_type`` and its alpha, whose meaning depends on the tool, as keys of the losses that have them."""

from __future__ import annotations

from collections.abc import Sequence

from dpotrain.convert.dialect import Dialect, ignored
from dpotrain.convert.terms import Term
from dpotrain.convert.translation import Given, Translation
from dpotrain.recipe.foreign import Gap
from dpotrain.recipe.foreign_keys import FOREIGN_KEYS

#: Losses of rewards that are divided by the number of the answer's tokens; TRL gives them other divergences, too.
_PER_TOKEN = ("ipo", "dpo-norm")


def set_divergence(t: Translation, terms: Sequence[Term], dialect: Dialect) -> None:
    """Set the divergence of the losses that the tool applies it to.

    Raises:
        RecipeError: dpotrain has no such divergence, or a loss is none that can have it.
    """
    given, coefficient = t.take("f_divergence_type"), t.take("f_alpha_divergence_coef")
    kind = str(given.value).lower() if given is not None else "reverse_kl"
    if coefficient is not None and kind != "alpha_divergence":
        t.leave(coefficient, Gap.NOT_NEEDED, "it belongs to f_divergence_type alpha_divergence")
    if given is None:
        return
    if kind == "reverse_kl":
        t.leave(given, Gap.NOT_NEEDED, "it is the divergence unless another is set")
        return
    name = FOREIGN_KEYS["f_divergence_type"].values.get(kind)
    if name is None:
        raise t.refuse(given, "dpotrain has no such divergence", optional=True)
    alpha = _alpha(t, coefficient, dialect) if name == "alpha" else None
    wanted = [term for term in terms if term.loss in dialect.diverged]
    without_reference = any(term.loss == "cpo" for term in terms)
    unneeded = ""
    if kind not in dialect.divergences:
        unneeded = f"{t.tool.name} reads {' and '.join(dialect.divergences)} only"
    elif alpha == 0:
        unneeded = "with f_alpha_divergence_coef = 1 TRL 1.16 takes the reverse KL"
    elif without_reference:
        raise t.refuse(given, "without a reference there is nothing to diverge from", optional=True)
    elif not wanted and (not dialect.refuses_divergence or all(term.loss == "sft" for term in terms)):
        unneeded = ignored(t, terms)
    if unneeded:
        for key in filter(None, (given, coefficient if name == "alpha" else None)):
            t.leave(key, Gap.NOT_NEEDED, unneeded)
        return
    for term in terms:
        unknown = dialect.refuses_divergence and term not in wanted and term.loss != "sft"
        if unknown or (term in wanted and term.loss in _PER_TOKEN):
            reason = f"with {term.loss} the part of the reward that belongs to the prompt does not cancel"
            raise t.refuse(given, reason, optional=True)
    for term in wanted:
        term.set("divergence", name, given)
        if alpha is not None:
            origin = coefficient or Given("f_alpha_divergence_coef", 0.5, t.tool.name)
            comment = origin.origin if dialect.own_alpha else f"1 - {origin.origin}"
            term.set("divergence_alpha", alpha, origin, comment)
    if coefficient is None and name == "alpha" and dialect.own_alpha:
        t.notes.append(
            f"f_alpha_divergence_coef: {t.tool.name}'s default is 1 with older versions of TRL, and 0.5 since"
        )
    if name != "jensen-shannon":
        t.notes.append(
            f"{given.key}: the exponential goes on as its tangent beyond an exponent of 20 in dpotrain; {t.tool.name} "
            "cuts it later or not"
        )


def _alpha(t: Translation, given: Given | None, dialect: Dialect) -> float:
    """Return the alpha here, between 0 (reverse KL) and 1 (forward KL)."""
    value = given.value if given is not None else 0.5
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    alpha = (value if dialect.own_alpha else round(1 - value, 12)) if valid else -1.0
    if not 0 <= alpha <= 1 or (alpha == 0 and dialect.own_alpha):
        shown = given or Given("f_alpha_divergence_coef", value)
        raise t.refuse(
            shown, "dpotrain has those between the reverse and the forward KL, 0 to 1", optional=True
        )
    if given is not None and value != 0.5 and not dialect.own_alpha:
        t.notes.append(
            f"{given.key} = {value}: TRL 1.16's coefficient is 1 for the reverse KL and 0 for the forward KL, the "
            f"other way round than dpotrain's and than that of older versions of TRL, for which set {value}"
        )
    return alpha
