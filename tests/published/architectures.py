"""The models that published recipes train: their configurations, written here, their sizes, and tiny ones like them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.families import FAMILIES


@dataclass(frozen=True)
class Architecture:
    """What decides how many parameters a model has, and what a tiny one of its kind needs."""

    config: str
    """The configuration's class in transformers."""
    shape: dict[str, Any]
    parameters: int
    """As published: the numbers in the safetensors files on the hub."""
    family: str
    """Whose chat template it has, a name in :data:`FAMILIES`."""
    tied: bool = False
    """Whether the head is the embedding."""
    norms: int = 2
    """Norms of a layer over the hidden size."""
    head_norms: str = ""
    """Norms of queries and keys: of each "head", of the "whole" projection, or none."""
    tiny: dict[str, Any] | None = None
    """What a tiny model has besides :data:`TINY`."""

    def counted(self) -> int:
        """Return the number of parameters by arithmetic, without transformers."""
        shape = self.shape
        hidden, heads, groups = (
            shape[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        width = shape.get("head_dim", hidden // heads)
        attention = 2 * hidden * width * (heads + groups)
        head_norms = {"": 0, "head": 2 * width, "whole": width * (heads + groups)}[self.head_norms]
        if experts := shape.get("num_experts"):
            feed_forward = experts * hidden * (1 + 3 * shape["moe_intermediate_size"])
        else:
            feed_forward = 3 * hidden * shape["intermediate_size"]
        layer = attention + head_norms + feed_forward + self.norms * hidden
        embeddings = shape["vocab_size"] * hidden * (1 if self.tied else 2)
        return int(embeddings + shape["num_hidden_layers"] * layer + hidden)


def _shape(
    vocabulary: int, hidden: int, inner: int, layers: int, heads: int, groups: int, **more: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        **more,
    }


_LLAMA_3 = _shape(128256, 4096, 14336, 32, 32, 8, max_position_embeddings=8192)
#: Four layers, so that every fourth of SmolLM3 and Olmo 3 is there, which differs; a window shorter than most pairs.
_FOURTH = {"num_hidden_layers": 4}
_WINDOW = {"sliding_window": 8}

ARCHITECTURES = {
    "Llama 3 8B": Architecture("LlamaConfig", _LLAMA_3, 8_030_261_248, "Llama 3"),
    # Ai2 added a padding token and rounded up to a multiple of 8.
    "Tülu 3 8B": Architecture(
        "LlamaConfig",
        _LLAMA_3 | {"vocab_size": 128264, "max_position_embeddings": 131072},
        8_030_326_784,
        "OLMo 2",
    ),
    "Tülu 3 70B": Architecture(
        "LlamaConfig",
        _shape(128264, 8192, 28672, 80, 64, 8, max_position_embeddings=131072),
        70_553_837_568,
        "OLMo 2",
    ),
    "OLMo 2 7B": Architecture(
        "Olmo2Config",
        _shape(100352, 4096, 11008, 32, 32, 32, max_position_embeddings=4096),
        7_298_617_344,
        "OLMo 2",
        head_norms="whole",
    ),
    "OLMo 2 13B": Architecture(
        "Olmo2Config",
        _shape(100352, 5120, 13824, 40, 40, 40, max_position_embeddings=4096),
        13_716_198_400,
        "OLMo 2",
        head_norms="whole",
    ),
    "Olmo 3 7B": Architecture(
        "Olmo3Config",
        _shape(100278, 4096, 11008, 32, 32, 32, max_position_embeddings=65536, sliding_window=4096),
        7_298_011_136,
        "Qwen 2.5",
        head_norms="whole",
        tiny=_FOURTH | _WINDOW,
    ),
    "Mistral 7B": Architecture(
        "MistralConfig",
        _shape(32000, 4096, 14336, 32, 32, 8, max_position_embeddings=32768, sliding_window=4096),
        7_241_732_096,
        "Mistral",
        tiny=_WINDOW,
    ),
    "Gemma 7B": Architecture(
        "GemmaConfig",
        _shape(256000, 3072, 24576, 28, 16, 16, head_dim=256, max_position_embeddings=8192),
        8_537_680_896,
        "Gemma 2",
        tied=True,
        tiny={"head_dim": 8},
    ),
    "Gemma 2 9B": Architecture(
        "Gemma2Config",
        _shape(
            256000, 3584, 14336, 42, 16, 8, head_dim=256, max_position_embeddings=8192, sliding_window=4096
        ),
        9_241_705_984,
        "Gemma 2",
        tied=True,
        norms=4,
        tiny={"head_dim": 8, "query_pre_attn_scalar": 8, **_WINDOW},
    ),
    "SmolLM2 1.7B": Architecture(
        "LlamaConfig",
        _shape(49152, 2048, 8192, 24, 32, 32, max_position_embeddings=8192, tie_word_embeddings=True),
        1_711_376_384,
        "SmolLM 2",
        tied=True,
    ),
    "SmolLM2 360M": Architecture(
        "LlamaConfig",
        _shape(49152, 960, 2560, 32, 15, 5, max_position_embeddings=8192, tie_word_embeddings=True),
        361_821_120,
        "SmolLM 2",
        tied=True,
    ),
    "SmolLM2 135M": Architecture(
        "LlamaConfig",
        _shape(49152, 576, 1536, 30, 9, 3, max_position_embeddings=8192, tie_word_embeddings=True),
        134_515_008,
        "SmolLM 2",
        tied=True,
    ),
    "SmolLM3 3B": Architecture(
        "SmolLM3Config",
        _shape(128256, 2048, 11008, 36, 16, 4, max_position_embeddings=65536, tie_word_embeddings=True),
        3_075_098_624,
        "SmolLM 3",
        tied=True,
        tiny=_FOURTH,
    ),
    "Qwen3 4B": Architecture(
        "Qwen3Config",
        _shape(
            151936,
            2560,
            9728,
            36,
            32,
            8,
            head_dim=128,
            max_position_embeddings=262144,
            tie_word_embeddings=True,
        ),
        4_022_468_096,
        "Qwen 3 without thinking",
        tied=True,
        head_norms="head",
        tiny={"head_dim": 8},
    ),
    "Qwen3 30B-A3B": Architecture(
        "Qwen3MoeConfig",
        _shape(
            151936,
            2048,
            6144,
            48,
            32,
            4,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            max_position_embeddings=262144,
        ),
        30_532_122_624,
        "Qwen 3 without thinking",
        head_norms="head",
        tiny={"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
}

#: The architecture of each model that a recipe names.
MODELS = {
    "allenai/Llama-3.1-Tulu-3-8B-SFT": "Tülu 3 8B",
    "allenai/Llama-3.1-Tulu-3-70B-SFT": "Tülu 3 70B",
    "allenai/OLMo-2-1124-7B-SFT": "OLMo 2 7B",
    "allenai/OLMo-2-1124-13B-SFT": "OLMo 2 13B",
    "allenai/Olmo-3-7B-Instruct-SFT": "Olmo 3 7B",
    "allenai/Olmo-3-7B-Think-SFT": "Olmo 3 7B",
    "alignment-handbook/zephyr-7b-sft-full": "Mistral 7B",
    "HuggingFaceH4/zephyr-7b-gemma-sft-v0.1": "Gemma 7B",
    "loubnabnl/smollm2-1.7B-sft": "SmolLM2 1.7B",
    "loubnabnl/smollm2-360M-sft": "SmolLM2 360M",
    "HuggingFaceTB/smollm2-135M-SFT-Only": "SmolLM2 135M",
    "HuggingFaceTB/SmolLM3-3B-checkpoints": "SmolLM3 3B",
    "meta-llama/Meta-Llama-3-8B-Instruct": "Llama 3 8B",
    "google/gemma-2-9b-it": "Gemma 2 9B",
    "Qwen/Qwen3-4B-Instruct-2507": "Qwen3 4B",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen3 30B-A3B",
}

#: The shape of a tiny model. The vocabulary has room for every family's tokens.
TINY = _shape(512, 32, 64, 2, 4, 2, max_position_embeddings=512, initializer_range=0.2)


def write_published(folder: Path, architecture: Architecture) -> Path:
    """Write a folder with configuration and tokenizer of the published size, and a file of weights without any."""
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    kind = getattr(transformers, architecture.config)
    config = {"model_type": kind.model_type, "dtype": "bfloat16", **architecture.shape}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    FAMILIES[architecture.family].tokenizer().save_pretrained(folder)
    return folder


def write_tiny(folder: Path, architecture: Architecture) -> Path:
    """Save a tiny random model of the same class, with the same tokenizer."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    tokenizer = FAMILIES[architecture.family].tokenizer()
    shape = TINY | (architecture.tiny or {}) | {"tie_word_embeddings": architecture.tied}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = getattr(transformers, architecture.config)(**shape, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
