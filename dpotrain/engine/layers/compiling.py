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

from dpotrain.core.errors import RecipeError, RunError
from dpotrain.engine.attention import varlen
from dpotrain.engine.layers import offloading, tiling
from dpotrain.engine.layers.checkpointing import decoder_layers
from dpotrain.engine.scoring.scorer import causal_lm

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
