"""Real tokenizers, built in a moment: byte-level BPE with the special tokens and template a test needs."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]

TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "Please tell me a story about a dog and a cat. Once upon a time there was a dog.",
    "user assistant system tool\n\nHuman: hello\n\nAssistant: hello there, how can I help you today?",
] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: Opens a thinking section in the generation prompt that is not there once the answer is written.
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")

#: Writes a thinking section before the last answer, and leaves it out of earlier ones.
STRIPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: Marks the last turn, so that a user's turn reads otherwise once it is answered.
MARKS_THE_LAST = CHATML.replace("<|im_end|>", "{% if loop.last %} please{% endif %}<|im_end|>")

#: BOS and EOS around every exchange, system folded in, strict about roles.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
)


@cache
def _bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.to_str()


def bpe(
    *, bos: bool = False, eos: bool = True, adds: str = "", template: str | None = None, **names: Any
) -> PreTrainedTokenizerBase:
    """Return a tokenizer; ``adds`` is what it puts around a text by itself: ``"<s> $A </s>"``."""
    core = Tokenizer.from_str(_bpe())
    if adds:
        pieces = [piece for piece in adds.split() if piece != "$A"]
        core.post_processor = processors.TemplateProcessing(
            single=adds, special_tokens=[(piece, core.token_to_id(piece)) for piece in dict.fromkeys(pieces)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        **names,
    )
    tokenizer.chat_template = template
    return tokenizer


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
