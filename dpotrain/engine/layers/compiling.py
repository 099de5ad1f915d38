"""``training.compile``: each decoder layer compiled separately by ``torch.compile``.

Layers are alike, so one compilation serves all of them; the whole model would take many times as long. A layer is one
graph, with attention over segments in it, and with its checkpointing: the backward graph then computes again what it
needs, and of the forward graph only the layer's input is kept. A graph serves rows of any pairs. Tiles stay outside
(see :mod:`.tiling`), and layers whose inputs are on the host compute uncompiled inside their checkpoint.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.data.batches.packing import PackedPairs
from dpotrain.engine.attention import varlen
from dpotrain.engine.layers import offloading, tiling
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.scoring.dropout import dropout_off, drops_out
from dpotrain.engine.scoring.probe import agree
from dpotrain.engine.scoring.scorer import Scorer, causal_lm
from dpotrain.engine.sharding.shards import computes_in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Graphs of layers before torch runs others uncompiled: with gradients and without, with the adapter and without, with
#: checkpointing and without, the first layer and others, for each kind of layer that a model alternates.
COMPILATIONS = 32

_COMPILERS = {"cpu": ("g++", "clang++", "c++"), "cuda": ("gcc", "clang", "cc")}
_NAMED_BY = {"cpu": "CXX", "cuda": "CC"}


def check_compiler(device: str) -> None:
    """Raise a RecipeError where ``torch.compile`` lacks what it needs on a device type, "cpu" or "cuda"."""
    missing = []
    named = os.environ.get(_NAMED_BY[device])
    candidates = (named,) if named else _COMPILERS[device]
    if not any(shutil.which(name) for name in candidates):
        missing.append(f"a compiler ({' or '.join(candidates)})")
    if device == "cuda" and find_spec("triton") is None:
        missing.append("the package triton")
    if missing:
        raise RecipeError(
            f"training.compile = true needs {' and '.join(missing)}, which this machine lacks.\n"
            "Install it, or leave training.compile out: results stay the same."
        )


def compile_scorer(scorer: Scorer, sample: PackedPairs) -> None:
    """Compile the decoder layers of a scorer's policy, in place, and prove them on a micro-batch. Collective.

    ``sample`` is on the policy's device. As between packed and ordinary rows (see :mod:`.probe`), rounding must explain
    how far its log-probs are from those of the uncompiled layers.

    Raises:
        RunError: it does not, or the model does not declare its decoder layers.
    """
    policy = scorer.policy
    exact = computes_in_float32(causal_lm(policy)) and not scorer.bf16
    expected, again = (_log_probs(scorer, sample) for _ in range(2))
    compile_layers(policy)
    got = _log_probs(scorer, sample)
    # Where passes differ by themselves, as those of routers with jitter do, there is nothing to compare.
    if agree(again, expected, exact) and not agree(got, expected, exact):
        off = (got - expected).abs()
        raise RunError(
            f"training.compile = true: compiled by torch {torch.__version__}, the layers of "
            f"{type(causal_lm(policy)).__name__} compute other log-probs than uncompiled, by {off.mean():.2g} nats a "
            f"token and up to {off.max():.2g}, which rounding does not explain.\n"
            "Leave training.compile out, or install another version of torch."
        )


def _log_probs(scorer: Scorer, sample: PackedPairs) -> torch.Tensor:
    """Return (S,) by a graph that the run needs anyway: with gradients, but where these passes have dropout."""
    with torch.set_grad_enabled(not drops_out(scorer.policy)), dropout_off(scorer.policy):
        _, each = scorer(sample, tokens=True)
    found: torch.Tensor = each.detach()
    return found


def compile_layers(policy: PreTrainedModel) -> None:
    """Compile every decoder layer, in place, when it is first called; sizes may differ from call to call.

    Raises:
        RunError: the model does not declare its decoder layers.
    """
    import torch._dynamo

    layers = decoder_layers(policy)
    if not layers:
        raise RunError(
            f"training.compile = true: {type(causal_lm(policy)).__name__} does not declare its decoder layers.\n"
            "Leave training.compile out: results stay the same."
        )
    torch._dynamo.config.recompile_limit = COMPILATIONS
    tiling.exclude_from_compilation()
    offloading.exclude_from_compilation()
    varlen.resolve()
    for layer in layers:
        layer.compile(dynamic=True)
