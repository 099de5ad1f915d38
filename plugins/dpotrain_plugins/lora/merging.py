"""Updates written into the weights they belong to, in a copy."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from . import TRAINED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merged(policy: Any) -> PreTrainedModel:
    """Return a plain model on the CPU with the trained adapter merged in; the policy is left as it is."""
    from torch import nn

    # deepcopy takes what is in its memo for already copied: in this way nothing is copied on the device.
    memo: dict[int, Any] = {}
    for weight in policy.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach().to("cpu", copy=True), requires_grad=False)
    for buffer in policy.buffers():
        memo[id(buffer)] = buffer.detach().to("cpu", copy=True)
    copy: Any = deepcopy(policy, memo)
    untie_what_differs(copy.get_base_model())
    model: PreTrainedModel = copy.merge_and_unload(safe_merge=True, adapter_names=[TRAINED])
    return model


def untie_what_differs(model: Any) -> None:
    """Part head and embedding where they share a weight and the adapter changes only one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper
    from torch import nn

    config = model.config.get_text_config()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = [end for end in ends if isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    if not config.tie_word_embeddings or not adapted:
        return
    for end in adapted:
        if isinstance(end, BaseTunerLayer):
            layer = end.get_base_layer()
            layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
