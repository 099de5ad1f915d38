"""The ``transformers`` model loader: a hub name or a folder, a whole model or an adapter on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import (
    LoadRequest,
    ModelLoader,
    OpenedModel,
    RecipeError,
    is_file,
    is_folder,
    short,
    user_path,
)
from dpotrain_plugins.hub_access import cache_where_unreachable

from .source import check_folder, looks_like_a_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

dpotrain_interface = 2


class TransformersLoader(ModelLoader):
    """Loads safetensors weights through transformers, and adapters through peft."""

    name = "transformers"

    class Options(ModelLoader.Options):
        name: str = Field(min_length=1, description="A hub name, or the folder of a model or an adapter.")
        revision: str | None = Field(None, description="Branch, tag or commit of a hub name.")
        dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
            "auto",
            description='What the weights are held in; "auto" is what they were saved in. Training all '
            'weights wants "float32": small updates get lost in bfloat16. Trained float16 weights are held in '
            "float32 and saved in float16.",
        )
        attention: Literal[
            "auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"
        ] = Field("auto", description="The implementation used wherever pairs cannot be packed.")
        trust_remote_code: bool = Field(False, description="Run the Python code that comes with the model.")
        chat_template: str | None = Field(
            None,
            description='For models without one, or to replace it: a Jinja file, "chatml", the name of one '
            "of the tokenizer's own templates, or the Jinja text itself.",
        )

    options: Options

    def check(self) -> None:
        name, template = self.options.name, self.options.chat_template
        folder = user_path(name)
        if is_folder(folder):
            if self.options.revision is not None:
                raise RecipeError(
                    f"model.revision = {self.options.revision!r} is of no use with the folder {name}; "
                    "revisions are for hub names"
                )
            check_folder(folder)
        elif is_file(folder):
            raise RecipeError(f"model.name = {name!r} is a file; name the folder that holds config.json")
        elif looks_like_a_path(name):
            raise RecipeError(
                f"model.name = {short(name)!r}: there is no such folder (looked for {short(str(folder.absolute()))})"
            )
        files = (".jinja", ".jinja2", ".j2")
        if template is not None and template.endswith(files) and not is_file(user_path(template)):
            raise RecipeError(f"model.chat_template = {short(template)!r}: there is no such file")

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        from .tokenizer import load_tokenizer

        with cache_where_unreachable():
            return load_tokenizer(self.options)

    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        from .weights import load_model

        with cache_where_unreachable():
            return load_model(self.options, request)

    def blueprint(self, request: LoadRequest) -> PreTrainedModel:
        from .blueprint import blueprint

        with cache_where_unreachable():
            return blueprint(self.options, request)

    def open_model(self, request: LoadRequest) -> OpenedModel | None:
        from .opening import open_model

        with cache_where_unreachable():
            return open_model(self.options, request)

    def fingerprint(self, source: str | None = None) -> str:
        from .source import fingerprint

        revision = self.options.revision if source is None else None
        with cache_where_unreachable():
            return f"{fingerprint(source or self.options.name, revision)} dtype:{self.options.dtype}"


@hookimpl
def dpotrain_model_loaders() -> list[type[ModelLoader]]:
    return [TransformersLoader]
