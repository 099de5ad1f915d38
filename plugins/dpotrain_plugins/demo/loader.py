"""The ``demo`` loader: the tiny pretrained model that comes with dpotrain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain.plugin.api import Component, LoadRequest, ModelLoader, OpenedModel
from dpotrain_plugins.transformers_loader import TransformersLoader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A folder like any other that ``transformers`` loads; :mod:`.pretrain` wrote it.
MODEL_FOLDER = Path(__file__).parent / "model"


class DemoLoader(ModelLoader):
    """Loads the shipped model in float32, the way the ``transformers`` loader loads any folder."""

    name = "demo"

    def __init__(self, options: Component.Options) -> None:
        super().__init__(options)
        self._folder = TransformersLoader(
            TransformersLoader.Options.model_validate({"name": str(MODEL_FOLDER), "dtype": "float32"})
        )

    def check(self) -> None:
        self._folder.check()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        return self._folder.load_tokenizer()

    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        return self._folder.load_model(request)

    def blueprint(self, request: LoadRequest) -> PreTrainedModel:
        return self._folder.blueprint(request)

    def open_model(self, request: LoadRequest) -> OpenedModel | None:
        return self._folder.open_model(request)

    def fingerprint(self, source: str | None = None) -> str:
        return self._folder.fingerprint(source)
