"""Tiny real models and tokenizers, built from config on this machine: what every test suite works with.

Everything is float32, seeded and about as small as its architecture allows (2 layers, a hidden size of 32).
Weights are drawn ten times as wide as usual, so that attention is far from uniform and a wrong mask shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click.testing import Result
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
EOS = "<|im_end|>"

_CORPUS = [
    "The quick brown fox jumps over the lazy dog while the other animals watch with great interest.",
    "Please tell me how to bake bread. First mix the flour, the water and the salt, then wait for an hour.",
    "user assistant system What is the capital of France? The capital of France is Paris.",
    "I would be happy to help you with that question. No, I cannot do that for you today.",
    "Numbers such as 0 1 2 3 4 5 6 7 8 9 and punctuation: commas, dots... and (brackets)!",
]


def dpotrain(*words: str, input: str | None = None) -> Result:
    """Give a command in this process; ``input`` is its standard input."""
    from click.testing import CliRunner

    from dpotrain.cli import main

    return CliRunner().invoke(main, words, input=input)


@lru_cache
def _trained_bpe() -> str:
    """Return the JSON of a byte-level BPE tokenizer of 384 tokens, special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<s>", "<|im_start|>", EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(
    folder: Path | None = None,
    chat_template: bool | str = True,
    bos: str | None = "<s>",
    pad: str | None = "<pad>",
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer whose EOS ends a ChatML turn; saved too where a folder is given.

    ``bos``, if any, is put before plain text by the tokenizer itself and before a conversation by the chat
    template, as Llama's does. ``chat_template`` may be a Jinja text; False leaves it out. ``bos=None`` and
    ``pad=None`` are tokenizers without those tokens.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(_trained_bpe())
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=EOS, pad_token=pad)
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE if chat_template is True else chat_template
    if folder is not None:
        tokenizer.save_pretrained(folder)
    return tokenizer


def _llama_like(config: str, **own: Any) -> Callable[..., PreTrainedConfig]:
    """Return a maker of configs; ``own`` is what the architecture has, or (None) lacks, beside Llama."""

    def make(**overrides: Any) -> PreTrainedConfig:
        import transformers

        values: dict[str, Any] = {
            "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "initializer_range": 0.2,
        }  # fmt: skip
        values = {name: value for name, value in (values | own).items() if value is not None}
        return getattr(transformers, config)(**(values | overrides))

    return make


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8}
_GPT = {
    "hidden_size": None, "num_hidden_layers": None, "num_attention_heads": None, "n_layer": 2, "n_head": 4,
}  # fmt: skip

#: Config makers by kind. Gemma's alternate window and full attention; Mistral's window is shorter than most
#: test sequences; Bloom has ALiBi, gpt_oss attention sinks, mamba2 no attention at all, jamba some of both.
KINDS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": _llama_like("LlamaConfig"),
    "qwen2": _llama_like("Qwen2Config"),
    "qwen3": _llama_like("Qwen3Config", head_dim=8),
    "mistral": _llama_like("MistralConfig", sliding_window=8),
    "gemma2": _llama_like("Gemma2Config", head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "gemma3": _llama_like(
        "Gemma3TextConfig",
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi3": _llama_like("Phi3Config", original_max_position_embeddings=512),
    "gpt2": _llama_like("GPT2Config", **_GPT, n_embd=32, n_positions=512, max_position_embeddings=None),
    "gpt_neox": _llama_like("GPTNeoXConfig", num_key_value_heads=None),
    "cohere": _llama_like("CohereConfig", logit_scale=0.5),
    "granite": _llama_like(
        "GraniteConfig",
        embedding_multiplier=2.0,
        logits_scaling=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.25,
    ),
    "mixtral": _llama_like("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": _llama_like("Qwen3MoeConfig", **_MOE),
    "gpt_oss": _llama_like(
        "GptOssConfig",
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        max_position_embeddings=131072,
    ),
    "bloom": _llama_like("BloomConfig", **{**_GPT, "hidden_size": 32}),
    "mamba2": _llama_like(
        "Mamba2Config",
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        conv_kernel=4,
        chunk_size=16,
        expand=2,
    ),
    "jamba": _llama_like(
        "JambaConfig",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
}


def tiny_model(kind: str = "llama", **config: Any) -> PreTrainedModel:
    """Return a random causal model of that kind (see KINDS), the same one every time, in eval mode.

    ``config`` overrides its configuration (``attention_dropout=0.1``, ``tie_word_embeddings=True``).
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(KINDS[kind](**config), dtype=torch.float32).eval()


def tiny_checkpoint(folder: Path, kind: str = "llama", **config: Any) -> Path:
    """Save a :func:`tiny_model` and a :func:`tiny_tokenizer` into ``folder`` and return it."""
    tiny_model(kind, **config).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder
