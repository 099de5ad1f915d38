"""What of a recipe's loss, reference and columns of pairs cannot be right together, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpotrain.core.pair_columns import REFERENCE
from dpotrain.plugin.api import Loss
from dpotrain.plugin.api.loss import columns_read
from dpotrain.plugin.api.nested import nested
from dpotrain.recipe.sections.data import DataSection
from dpotrain.recipe.sections.reference import INITIAL_POLICY, ReferenceSection
from dpotrain.recipe.tables import TableReader


def check_objective(reader: TableReader, sections: Mapping[str, Any], loss: Loss | None) -> None:
    """Collect what is wrong with the objective; sections and losses that are wrong themselves are missing."""
    reference = sections["reference"]
    if reference and reference.update is not None:
        _check_moving_reference(reader, reference)
    if reference and reference.quantizer is not None and reference.of == INITIAL_POLICY:
        text = "the initial policy is loaded with [quantizer]; this is for another model, which reference.of names"
        reader.problems.add(("reference",), ("quantizer",), text)
    if loss is None:
        return
    for path, part in nested(loss):
        if isinstance(part, Loss):
            _check_divergence(reader, ("loss", *path), part)
            _check_weighting(reader, ("loss", *path), part)
    if data := sections["data"]:
        _check_margin(reader, data, loss)
        _check_label_probability(reader, data, loss)
        _check_reference_columns(reader, data, reference, loss)
    if reference and not loss.needs_reference and reference != ReferenceSection.model_validate({}):
        reader.problems.add(("reference",), (), f"loss {loss.name} needs no reference; leave the table out")


def _check_moving_reference(reader: TableReader, reference: ReferenceSection) -> None:
    """Refuse what a reference that follows the policy rules out."""
    add = reader.problems.add
    if reference.when == "precomputed":
        text = (
            "with update the log-probs change during training and are computed in every step; leave when out"
        )
        add(("reference",), ("when",), text)
    if reference.store:
        text = "with update the log-probs change during training and none are stored; keep one of the two"
        add(("reference",), ("store",), text)
    if reference.of != INITIAL_POLICY:
        text = (
            "weights of the policy are mixed into those of the reference, which therefore begins as the initial "
            "policy; leave reference.of out"
        )
        add(("reference",), ("update",), text)


def _check_divergence(reader: TableReader, at: tuple[str | int, ...], loss: Loss) -> None:
    options = loss.options
    if options.divergence != "reverse-kl" and not loss.of_difference:
        text = (
            f"{options.divergence} needs a loss of the difference of the two log-ratios, in which the part of the "
            f"reward that belongs to the prompt cancels; {loss.name} is none"
        )
        reader.problems.add(at, ("divergence",), text)
    if (options.divergence == "alpha") is not (options.divergence_alpha is not None):
        text = (
            'missing; divergence = "alpha" needs it, a number > 0 and <= 1'
            if options.divergence_alpha is None
            else f'it belongs to divergence = "alpha", and the divergence is {options.divergence}'
        )
        reader.problems.add(at, ("divergence_alpha",), text)


def _check_weighting(reader: TableReader, at: tuple[str | int, ...], loss: Loss) -> None:
    options = loss.options
    if len(at) > 1 and options.tail_weight != 1:
        text = "all parts of a loss have the same log-probs; set it in [loss]"
        reader.problems.add(at, ("tail_weight",), text)
    if options.weighting is None:
        return
    if loss.couples_pairs:
        text = f"the losses of {loss.name} belong to all pairs of a step, so none has a weight of its own"
        reader.problems.add(at, ("weighting",), text)
    if options.tail_weight != 1:
        text = "it needs the log-probs of all tokens alike; leave out tail_weight"
        reader.problems.add(at, ("weighting",), text)


def _check_margin(reader: TableReader, data: DataSection, loss: Loss) -> None:
    has_beta = loss.options.beta is not None
    if "margin" in data.pair_columns - columns_read(loss) and not (loss.of_difference and has_beta):
        text = (
            f"a margin is taken off beta times the difference of the two log-ratios, and {loss.name} "
            f"{'is no loss of that difference' if has_beta else 'has no beta'}; leave it out, or use dpo"
        )
        reader.problems.add(("data",), ("columns", "margin"), text, shown="columns.margin")


def _check_label_probability(reader: TableReader, data: DataSection, loss: Loss) -> None:
    if "label_probability" in data.pair_columns and loss.couples_pairs:
        text = (
            f"{loss.name} is formed over all pairs of a step, so the answers of one cannot be exchanged in it; leave "
            "the column out, or use a loss of single pairs"
        )
        reader.problems.add(
            ("data",), ("columns", "label_probability"), text, shown="columns.label_probability"
        )


def _check_reference_columns(
    reader: TableReader, data: DataSection, reference: ReferenceSection | None, loss: Loss
) -> None:
    mapped = [name for name in REFERENCE if name in data.pair_columns]
    if not mapped:
        return
    (missing,) = set(REFERENCE) - set(mapped) if len(mapped) == 1 else ("",)
    text = ""
    if missing:
        text = f"columns.{missing} is missing; the reference's log-probs are needed of both answers"
    elif not loss.needs_reference:
        text = f"loss {loss.name} needs no reference; leave both columns out"
    elif loss.options.tail_weight != 1:
        text = "the data's log-probs count all tokens alike; leave out loss.tail_weight"
    elif reference and reference != ReferenceSection.model_validate({}):
        text = "with the reference's log-probs from the data, nothing is computed; leave [reference] out"
    if text:
        reader.problems.add(("data",), ("columns", mapped[0]), text, shown=f"columns.{mapped[0]}")
