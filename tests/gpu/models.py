"""A plugin of the check: Llamas of known shapes with random weights, made on the device, and pairs of exact lengths."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import DatasetSource, LoadRequest, ModelLoader, Rows

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Hidden size, layers, heads, key-value heads, feed-forward size, vocabulary, whether the head is the embedding.
SHAPES = {
    "8b": (4096, 32, 32, 8, 14336, 128256, False),
    "1b": (2048, 16, 32, 8, 8192, 128256, True),
    "small": (1024, 8, 16, 4, 4096, 32000, False),
    "tiny": (64, 2, 4, 2, 128, 1100, False),
}
#: Words of the tokenizer, beside its special tokens.
WORDS = 1000


def config_of(shape: str) -> LlamaConfig:
    from transformers import LlamaConfig

    hidden, layers, heads, groups, feed_forward, vocabulary, tied = SHAPES[shape]
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


class RandomModel(ModelLoader):
    """The same random weights every time, whatever was drawn before."""

    name = "random"

    class Options(ModelLoader.Options):
        shape: Literal["8b", "1b", "small", "tiny"] = Field(description="One of SHAPES.")
        dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="What weights are held in.")

    options: Options

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = ["<pad>", "</s>", *(f"w{number}" for number in range(WORDS))]
        backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<pad>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")

    def load_model(self, request: LoadRequest) -> PreTrainedModel:
        import torch
        from transformers import LlamaForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self._build(request.device)
        if request.quantization is not None:
            # Loaded anew, since quantizing is a part of loading.
            weights = model.state_dict()
            model = LlamaForCausalLM.from_pretrained(
                None,
                config=config_of(self.options.shape),
                state_dict=weights,
                dtype=getattr(torch, self.options.dtype),
                quantization_config=request.quantization,
                device_map={"": request.device},
            )
        return model.train()

    def blueprint(self, request: LoadRequest) -> PreTrainedModel:
        return self._build("meta").train()

    def fingerprint(self, source: str | None = None) -> str:
        return f"random {self.options.shape} {self.options.dtype}"

    def _build(self, device: str) -> PreTrainedModel:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device(device):
            return AutoModelForCausalLM.from_config(
                config_of(self.options.shape), dtype=getattr(torch, self.options.dtype)
            )


class RandomPairs(DatasetSource):
    """Pairs of random words, a token each; every completion has its end-of-text token on top."""

    name = "random"

    class Options(DatasetSource.Options):
        pairs: int = Field(description="How many.")
        prompt: int = Field(description="Tokens of each prompt.")
        answer: int = Field(description="Tokens of each completion, its end included.")

    options: Options

    def splits(self) -> list[str]:
        return ["train"]

    def load(self, split: str) -> Rows:
        return _Rows(self.options)


class _Rows:
    columns = ["prompt", "chosen", "rejected"]  # noqa: RUF012

    def __init__(self, options: RandomPairs.Options) -> None:
        self._options = options
        self.fingerprint = f"random pairs {options.model_dump_json()}"

    def __len__(self) -> int:
        return self._options.pairs

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        draw = random.Random(index)

        def text(words: int) -> str:
            return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(words))

        answer = self._options.answer - 1
        return {
            "prompt": text(self._options.prompt),
            "chosen": " " + text(answer),
            "rejected": " " + text(answer),
        }


@hookimpl
def dpotrain_model_loaders() -> list[type[ModelLoader]]:
    return [RandomModel]


@hookimpl
def dpotrain_dataset_sources() -> list[type[DatasetSource]]:
    return [RandomPairs]
