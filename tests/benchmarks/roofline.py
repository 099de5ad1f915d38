"""Which limit of the machine holds for each part of dpotrain's step: its matrix-product rate, or its memory rate.

The roofline model (Williams, Waterman and Patterson 2009): a part can take no less time than its FLOPs over the rate of
matrix products, and no less than the bytes that it must move over the memory rate. The bytes are a lower bound: weights
are read once per micro-batch and pass, and each linear layer's input and output is moved once. Attention, norms and
whatever is saved and read again come on top. Nothing here imports torch.
"""

from dataclasses import dataclass
from typing import Any

from tests.benchmarks.flops import ModelShape

#: Numbers that AdamW moves of each trained weight: it reads weight, gradient and two moments, and writes all but the
#: gradient.
ADAMW_NUMBERS = 7


@dataclass(frozen=True)
class Machine:
    """The rates that bound a step."""

    flops: float
    """FLOP/s of matrix products."""
    bytes: float
    """Bytes/s from and to memory."""


def work_of_step(
    shape: ModelShape,
    sizes: dict[str, float],
    microbatches: float,
    weight_bytes: int,
    compute_bytes: int,
) -> dict[str, dict[str, float]]:
    """Return FLOPs and least bytes of each part of a step.

    Args:
        shape: the model.
        sizes: tokens, attended and scored of a mean step.
        microbatches: mean number of them in a step.
        weight_bytes: of a frozen weight, or of any in full training.
        compute_bytes: of an activation.
    """
    tokens, scored = sizes["tokens"], sizes["scored"]
    parts = shape.parts(**sizes)
    frozen = microbatches * weight_bytes * shape.linear
    head = microbatches * weight_bytes * shape.head
    trained_bytes = weight_bytes if shape.trained else 4
    adapter = microbatches * 4 * shape.adapter
    once = compute_bytes * (tokens * (shape.inputs + shape.outputs) + scored * shape.hidden)
    # Gradients of outputs are read, those of inputs written, and inputs read again for the gradients of weights.
    back = compute_bytes * (tokens * (2 * shape.inputs + shape.outputs) + scored * shape.hidden)
    gradients = microbatches * trained_bytes * (shape.linear + shape.head if shape.trained else shape.adapter)
    least = {
        "reference": frozen + head + once,
        "forward": frozen + head + adapter + once,
        "backward": frozen + (head if shape.trained else 0) + adapter + back + gradients,
    }
    found = {part: {"flops": sum(parts[part].values()), "bytes": least[part]} for part in least}
    found["optimizer"] = {"flops": 0.0, "bytes": ADAMW_NUMBERS * trained_bytes * shape.trained_weights}
    return found


def roofline(
    work: dict[str, dict[str, float]], seconds: dict[str, float], machine: Machine
) -> list[dict[str, Any]]:
    """Return a row for each part: its rates as shares of the machine's, the limit that holds, and the share of it."""
    rows = []
    for part, each in work.items():
        at_rate, at_memory = each["flops"] / machine.flops, each["bytes"] / machine.bytes
        rows.append(
            {
                "part": part,
                "seconds": seconds[part],
                **each,
                "share_of_matrix_product_rate": at_rate / seconds[part],
                "share_of_memory_rate": at_memory / seconds[part],
                "limit": "products" if at_rate >= at_memory else "memory",
                "least_seconds": max(at_rate, at_memory),
            }
        )
    return rows


def of_result(
    workload: dict[str, Any], facts: dict[str, Any], result: dict[str, Any], steps: int
) -> list[dict[str, Any]]:
    """Return the roofline of an instrumented run; ``steps`` are those of an epoch.

    A stored reference is looked up, and has no row.
    """
    sizes = {name: count / steps for name, count in facts["epoch"].items()}
    work = work_of_step(
        ModelShape(**facts["shape"]),
        sizes,
        result["calls"]["forward"],
        weight_bytes=2 if workload["weights"] == "bfloat16" else 4,
        compute_bytes=2 if workload["precision"] == "bf16" else 4,
    )
    if not result["live_reference"]:
        del work["reference"]
    machine = Machine(facts["matrix_product_flops_per_second"], facts["memory_bytes_per_second"])
    return roofline(work, result["phases"], machine)


def shares_of_groups(
    workload: dict[str, Any], facts: dict[str, Any], result: dict[str, Any]
) -> dict[str, float]:
    """Return the share of the matrix-product rate that each group with matrix products reaches in the profiled step.

    That is the last one of an epoch, which may have fewer pairs; its tokens are taken to be so many mean pairs'.
    """
    pairs = len(facts["pairs"])
    last = pairs % workload["pairs_per_step"] or workload["pairs_per_step"]
    sizes = {name: count * last / pairs for name, count in facts["epoch"].items()}
    parts = ModelShape(**facts["shape"]).parts(**sizes)
    if not result["live_reference"]:
        del parts["reference"]
    rate = facts["matrix_product_flops_per_second"]
    kinds = {"products": ("linear", "head"), "attention": ("attention",)}
    flops = {
        group: sum(each[kind] for each in parts.values() for kind in inside)
        for group, inside in kinds.items()
    }
    seconds = {group: sum(part[group] for part in result["groups"].values()) for group in kinds}
    return {group: flops[group] / seconds[group] / rate for group in kinds if seconds[group]}
