"""Model loaders: where the policy and its tokenizer come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpotrain.plugin.api.component import Component, hookspec
from dpotrain.plugin.api.quantizer import Quantizer
from dpotrain.plugin.api.returns import is_a, is_model, is_text, optional, returns

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What the core asks a model loader for."""

    source: str | None = None
    """A hub name or folder to load instead of the loader's own (for ``reference.of``)."""
    quantization: Any = None
    """What :meth:`Quantizer.loading_config` returned, or None."""
    quantizer: Quantizer | None = None
    """The quantizer itself, which says whether weights that were saved quantized are what it asks for (see
    :meth:`Quantizer.contradictions`)."""
    keep_adapter: bool = False
    """Where the source is an adapter on a base model: keep it as a trainable adapter (True), because the adapter
    of the recipe goes on training it, or merge it into the weights (False), because these are trained themselves."""
    device: str = "cpu"
    """Where the weights should be, as torch writes it: ``"cpu"``, ``"cuda:0"``."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model whose weights have not been read (see :meth:`ModelLoader.open_model`)."""

    model: PreTrainedModel
    """What :meth:`ModelLoader.load_model` would return, its parameters on the meta device and its buffers on the
    CPU."""
    weights: Mapping[str, Any]
    """What is read into the parameters, by their names; of one that has several names, because it is tied, any.

    An item ``[start:stop]`` of each is a tensor of these rows, and ``[...]`` the whole, as of a tensor itself or of
    what ``safetensors.safe_open(…).get_slice(…)`` returns. Another dtype than the parameter's is converted."""


class ModelLoader(Component):
    """Brings the policy and its tokenizer; selected by ``[model]``."""

    kind = "model loader"

    @abstractmethod
    @returns("a tokenizer of transformers", is_a("transformers", "PreTrainedTokenizerBase"))
    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with a pad token and, for a chat model, its chat template."""

    @abstractmethod
    @returns("a causal language model of transformers, or a wrapper of one", is_model)
    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        """Return a causal language model in ``train()`` mode with dropout at zero.

        In ``eval()`` 4-bit layers may repack their weights on a CPU and lose all gradients from then on.

        A PEFT model where ``request.keep_adapter`` and the source is an adapter.
        """

    @returns("a causal language model on the meta device, or None", optional(is_model))
    def blueprint(self, request: LoadRequest) -> PreTrainedModel | None:
        """Return what :meth:`load_model` would, not quantized, on the meta device: shapes and dtypes, no weights.

        ``dpotrain plan`` counts memory on it, and ``dpotrain check`` attaches the adapter to it. It is quick, reads no
        weights but an adapter's, and raises what :meth:`load_model` would raise for the files of the model; None (as
        here) says that the loader cannot tell.
        """
        return None

    @returns("an OpenedModel or None", optional(lambda value: isinstance(value, OpenedModel)))
    def open_model(self, request: LoadRequest) -> OpenedModel | None:
        """Return what :meth:`load_model` would with its weights still in their files, to the bit the same once read.

        Called where all weights of a model, or its last layers, are trained and sharded: each process reads its own
        rows, and none needs memory for the whole model. None (as here) says that the loader cannot do that: the main
        process then calls :meth:`load_model`, and the others get their rows from it, if there is a :meth:`blueprint`.
        """
        return None

    @abstractmethod
    @returns("a text that changes whenever the loaded weights would", is_text)
    def fingerprint(self, source: str | None = None) -> str:
        """Return a text that changes whenever the loaded weights would.

        For a folder its files' sizes and hashes, for a hub name its resolved commit. It is part of the key of
        stored reference log-probs.
        """


@hookspec
def dpotrain_model_loaders() -> Iterable[type[ModelLoader]]:  # type: ignore[empty-body]
    """Offer model loaders, which bring the policy and its tokenizer.

    Called: while the recipe is read, and by ``dpotrain plugins`` and ``dpotrain schema``.

    Rank: every process.

    Must not import: torch, transformers or anything as heavy at the top of its module; a loader's methods
    import what they need.

    Result: classes. ``[model] use`` picks one by ``name``, and it is constructed with the rest of that table.

    Example:
        from pydantic import Field

        from dpotrain import hookimpl
        from dpotrain.plugin.api import ModelLoader


        class FolderLoader(ModelLoader):
            name = "folder"

            class Options(ModelLoader.Options):
                path: str = Field(description="Folder that holds the model and its tokenizer.")

            def load_tokenizer(self):
                from transformers import AutoTokenizer

                return AutoTokenizer.from_pretrained(self.options.path)

            def load_model(self, request):
                from transformers import AutoModelForCausalLM

                source = request.source or self.options.path
                model = AutoModelForCausalLM.from_pretrained(
                    source, quantization_config=request.quantization, attention_dropout=0.0
                )
                return model.to(request.device).train()

            def fingerprint(self, source=None):
                import hashlib
                from pathlib import Path

                weights = sorted(Path(source or self.options.path).glob("*.safetensors"))
                return hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest()


        @hookimpl
        def dpotrain_model_loaders():
            return [FolderLoader]
    """
