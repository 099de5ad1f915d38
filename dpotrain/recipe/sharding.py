"""What of a recipe rules out that processes shard the weights."""

from __future__ import annotations

from dpotrain.plugin.api import Optimizer, Quantizer, Selection


def sharding_fault(selection: Selection, reference_quantizer: Quantizer | None) -> tuple[str, str] | None:
    """Return the key that rules it out, and why; None where nothing does.

    ``reference_quantizer`` is that of the model that ``reference.of`` names.
    """
    for key, quantizer in (
        ("quantizer", selection.quantizer),
        ("reference.quantizer", reference_quantizer),
    ):
        if quantizer is not None and not quantizer.shardable:
            return key, (
                f'weights in the format of "{quantizer.name}" cannot be sharded over processes: their layers may keep '
                'whole weights beside those that are sharded; take "bnb-4bit", whose layers keep none'
            )
    optimizer = selection.one_of(Optimizer)
    if optimizer is not None and selection.trains_in_place and not optimizer.elementwise:
        return (
            "optimizer",
            f'"{optimizer.name}" needs whole matrices to update them, and of sharded weights each process has some '
            'rows; take one that updates each number by itself, such as "adamw"',
        )
    return None
