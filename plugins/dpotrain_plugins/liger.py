"""The ``liger`` model loader: the ``transformers`` loader with Liger's fused kernels; needs the extra ``liger``.

Only what lies between the embedding and the last hidden state is replaced (norms, rotary embedding, feed-forward
product): the way from there to log-probs is the engine's, which never makes the logits that Liger's losses save.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

from dpotrain import hookimpl
from dpotrain.plugin.api import LoadRequest, ModelLoader, RecipeError, RunError, require
from dpotrain_plugins.transformers_loader import TransformersLoader

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

dpotrain_interface = 2

#: Tokens that the kernels are proven on, and how far a token's last hidden state may move, as a share of its norm.
#: The kernels round differently, which is about a hundredth in bfloat16; another activation function is far more.
PROOF_TOKENS = 16
TOLERANCE = 0.1


class LigerLoader(TransformersLoader):
    """Loads as ``transformers`` does and replaces norms, rotary embedding and feed-forward product by Liger's kernels.

    Faster and leaner on an NVIDIA GPU, and the same model up to rounding, which is checked when it is loaded. Liger
    replaces the rotary embedding for all models of the architecture in the process.
    """

    name = "liger"

    def check(self) -> None:
        super().check()
        if not _driver_found():
            raise RecipeError(
                'the "liger" loader needs an NVIDIA GPU, and this machine has no driver for one\n'
                'load the model without its kernels: model.use = "transformers"'
            )
        require(self, "liger-kernel", extra="liger")

    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        """Load the model and put the kernels into it.

        Raises:
            RunError: there is no GPU, Liger does not know the architecture, or its kernels compute something else.
        """
        import torch

        if not torch.cuda.is_available():
            raise RunError(
                'the "liger" loader needs an NVIDIA GPU, and torch finds none.\n'
                'Install a CUDA build of torch and look at CUDA_VISIBLE_DEVICES, or set model.use = "transformers".'
            )
        # Before gigabytes of weights are read for nothing.
        _kernels(self._model_type(request))
        policy = super().load_model(request)
        unwrap = getattr(policy, "get_base_model", None)
        fuse(policy if unwrap is None else unwrap())
        return policy

    def _model_type(self, request: LoadRequest) -> str:
        from dpotrain_plugins.hub_access import cache_where_unreachable
        from dpotrain_plugins.transformers_loader.source import resolve
        from dpotrain_plugins.transformers_loader.weights import load_config

        options = self.options
        with cache_where_unreachable():
            revision = options.revision if request.source is None else None
            source = resolve(request.source or options.name, revision)
            return str(load_config(source.model, options).model_type)


def fuse(model: PreTrainedModel) -> None:
    """Put the kernels into a loaded model, in place, and prove that it still computes the same.

    Raises:
        RunError: Liger does not know the architecture, or the last hidden states moved by more than rounding.
    """
    replace = _kernels(model.config.model_type)
    before = _hidden_states(model)
    # Its losses would replace the model's forward; the engine does not call it.
    replace(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    moved = (_hidden_states(model) - before).norm(dim=-1) / before.norm(dim=-1)
    # The median: rounding may send a single token to another expert.
    if not (worst := float(moved.median())) <= TOLERANCE:
        raise RunError(
            f"with Liger's kernels {type(model).__name__} computes something else: its last hidden states move by "
            f"{worst:.0%}.\nIts activation function or rotary embedding is one that the kernels do not have; "
            'set model.use = "transformers".'
        )


def _kernels(model_type: str) -> Callable[..., None]:
    """Return Liger's function that replaces the parts of such a model."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    found: Callable[..., None] | None = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model_type)
    if found is None:
        raise RunError(
            f"the installed liger-kernel {version('liger-kernel')} has no kernels for a {model_type} model.\n"
            'Load it without them: model.use = "transformers".'
        )
    return found


def _hidden_states(model: PreTrainedModel) -> torch.Tensor:
    """Return the last hidden states of some tokens, (PROOF_TOKENS, hidden size) float32."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, PROOF_TOKENS + 1, device=model.device) * (vocabulary // (PROOF_TOKENS + 2))
    with torch.no_grad():
        output = model.base_model(input_ids=ids[None], use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state[0].float()
    return hidden


def _driver_found() -> bool:
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


@hookimpl
def dpotrain_model_loaders() -> list[type[ModelLoader]]:
    return [LigerLoader]
