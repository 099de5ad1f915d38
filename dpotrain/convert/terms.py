"""The losses of a configuration, each with its keys, written as ``[loss]`` or as a mix with ``[[loss.terms]]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dpotrain.convert.translation import Given, Translation


@dataclass(slots=True)
class Term:
    """One loss, what it counts in the sum, and its keys."""

    loss: str
    """The recipe's name for it."""
    given: Given
    """The key that asks for it."""
    weight: float = 1.0
    weight_key: str = ""
    """The key that the weight comes from, unless it is that of the loss."""
    comment: str = ""
    keys: dict[str, tuple[Any, Given, str]] = field(default_factory=dict)
    """Value, origin and comment by the option's name."""

    def set(self, key: str, value: Any, given: Given, comment: str = "") -> None:
        """Set an option of the loss."""
        self.keys[key] = (value, given, comment or given.origin)


def write_terms(t: Translation, terms: Sequence[Term]) -> None:
    """Write the losses; one that counts once is ``[loss]`` itself."""
    (first, *rest) = terms
    if not rest and first.weight == 1:
        t.put("loss.use", first.loss, first.given, first.comment)
        _write_keys(t, "loss", first)
        return
    t.draft.set("loss.use", "mix", "the weighted sum of [[loss.terms]]")
    for number, term in enumerate(terms):
        table = f"loss.terms.{number}"
        if "weight" in term.keys:  # a weight of the loss's own, so that the loss has a table of its own
            own = {"use": term.loss} | {key: value for key, (value, _, _) in term.keys.items()}
            comments = [term.comment or term.given.origin, *(comment for _, _, comment in term.keys.values())]
            for given in (term.given, *(given for _, given, _ in term.keys.values())):
                t.put(f"{table}.loss", own, given, "; ".join(comments))
        else:
            t.put(f"{table}.use", term.loss, term.given, term.comment)
            _write_keys(t, table, term)
        if term.weight != 1:
            t.draft.set(f"{table}.weight", term.weight, term.weight_key)


def _write_keys(t: Translation, table: str, term: Term) -> None:
    for key, (value, given, comment) in term.keys.items():
        t.put(f"{table}.{key}", value, given, comment)
