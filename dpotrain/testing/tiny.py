"""A tiny real model with its tokenizer, and a few pairs; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_END = "<|im_end|>"
_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build_tiny_model(folder: Path) -> Path:
    """Save a randomly initialised Llama (2 layers, 32 wide, float32) with its chat tokenizer, and return the folder.

    The tokenizer reads any text byte by byte. The weights are the same every time.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|im_start|>", _END]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=_END, pad_token="<pad>"
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def example_pairs(count: int = 32) -> list[dict[str, Any]]:
    """Return rows of standard preference pairs with distinct prompts and answers of varied length."""
    things = ("tea", "a table for two", "the last train", "some help", "a longer list of what there is")
    return [
        {
            "prompt": f"May I have {things[number % len(things)]}, number {number}?",
            "chosen": f" Certainly, {things[number % len(things)]} it is." + " Gladly!" * (number % 3),
            "rejected": " No." + " Not now." * (number % 4),
        }
        for number in range(count)
    ]


def write_pairs(path: Path, *, columns: Sequence[str] = ()) -> Path:
    """Write :func:`example_pairs` as JSON Lines and return the path.

    ``columns`` are names of further columns, which have numbers from 0 to 1.
    """
    rows = [{**pair, **dict.fromkeys(columns, number % 5 / 4)} for number, pair in enumerate(example_pairs())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def are_examples(path: Path) -> bool:
    """Whether a file is what :func:`write_pairs` writes."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError):
        return False
    examples = example_pairs()
    return len(rows) == len(examples) and all(
        isinstance(row, dict) and row | example == row for row, example in zip(rows, examples, strict=True)
    )
