"""Makes the demo's pretrained model: ``python -m dpotrain_plugins.demo.pretrain --out DIR``.

With its defaults it made the model that dpotrain ships, from requests of the demo grammar that are not held out. Every
request is in its batch twice, with a courteous and a curt reply, so that the model has no reason to favour either
style. On one machine the script writes the same bytes every time; another processor may round differently.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dpotrain_plugins.demo.grammar import STYLES, Request, Style, requests, style

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<user>", "<assistant>"
VOCABULARY = 1000
IGNORED = -100
TOKENIZER_REQUESTS = 8000

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == "user" -%}
        {{- "<user>" + message.content -}}
    {%- elif message.role == "assistant" -%}
        {{- "<assistant>" + message.content + eos_token -}}
    {%- else -%}
        {{- raise_exception("the demo model knows the roles user and assistant, not " + message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<assistant>" -}}
{%- endif -%}
"""


def main() -> None:
    """Read the command line, make the model, and measure it."""
    parser = argparse.ArgumentParser(description="Make the demo's pretrained model.")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write the model and tokenizer into"
    )
    for name, default, text in (
        ("--steps", 2000, "optimizer steps"),
        ("--requests-per-step", 24, "requests in a step, two replies each"),
        ("--lr", 4e-3, "peak learning rate"),
        ("--seed", 0, "decides the weights and the text"),
        ("--threads", 2, "threads of torch"),
        ("--samples", 400, "replies sampled at the end"),
    ):
        parser.add_argument(name, type=type(default), default=default, help=text)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(options.seed)
    torch.manual_seed(options.seed)
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} weights, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer, options.steps, options.requests_per_step, options.lr, options.seed)
    save(model, tokenizer, options.out)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"wrote {options.out} ({size:,} bytes)")
    if options.samples:
        measure(options.out, options.samples)


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the grammar's text; any other text falls back to its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    some = itertools.islice(requests(seed, held_out=False), TOKENIZER_REQUESTS)
    texts = [text for request in some for text in (request.text, *(request.reply(s, rng) for s in STYLES))]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, BOS, EOS, USER, ASSISTANT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=256,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama with random weights from torch's current random state."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            # 1 / sqrt(hidden_size): with the usual 0.02, attention so narrow stays flat for half of the training.
            initializer_range=0.1,
            **ids,
        )
    )
    model.generation_config = GenerationConfig(do_sample=True, top_k=0, **ids)
    return model


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    requests_per_step: int,
    peak_lr: float,
    seed: int,
) -> None:
    """Minimize the cross-entropy of the replies' tokens, in place, telling how it goes every 100 steps."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)
    stream = _endless_requests(seed)
    rng = random.Random(f"replies {seed}")
    model.train()
    began, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        rate = peak_lr * min(1.0, step / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        asked = list(itertools.islice(stream, requests_per_step))
        batches = [_batch(tokenizer, asked, each, rng) for each in STYLES]
        count = sum(int((labels != IGNORED).sum()) for _, labels in batches)
        # One pass a style, because courteous replies are twice as long: together, half would be padding.
        for tokens, labels in batches:
            # The padding is on the right, where a causal model does not see it, so no mask is needed.
            logits = model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
            loss = F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
            (loss / count).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / count
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            mean = total / (step % 100 or 100)
            print(f"step {step}/{steps}  loss {mean:.4f}  {time.perf_counter() - began:.0f} s", flush=True)
            total = 0.0


def _endless_requests(seed: int) -> Iterator[Request]:
    """Yield requests to train on; the small kinds, of which there are few, come round again with each new seed."""
    for epoch in itertools.count():
        yield from itertools.islice(requests(seed * 1000 + epoch, held_out=False), 5000)


def _batch(
    tokenizer: PreTrainedTokenizerFast, batch: list[Request], each: Style, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels of replies in one style, both (requests, longest); IGNORED is not learnt."""
    import torch

    tokens, labels = [], []
    user, assistant = tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
    for request in batch:
        texts = request.text, request.reply(each, rng)
        asked, answered = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
        prompt, reply = [tokenizer.bos_token_id, user, *asked, assistant], [*answered, tokenizer.eos_token_id]
        tokens.append(torch.tensor(prompt + reply))
        labels.append(torch.tensor([IGNORED] * len(prompt) + reply))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(tokens, True, tokenizer.pad_token_id), pad(labels, True, IGNORED)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model in bfloat16 and the tokenizer with its chat template, loadable by transformers."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Without the indentation the vocabulary takes a third of the space.
    bpe = folder / "tokenizer.json"
    content = json.loads(bpe.read_text("utf-8"))
    bpe.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), "utf-8")
    # Weights are written for their owner's eyes alone, which a wheel would pass on.
    for file in folder.iterdir():
        file.chmod(0o644)


def measure(folder: Path, count: int) -> None:
    """Sample replies to held-out requests and print the share of each style and of right answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dpotrain_plugins.demo.sampling import sample_replies

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = list(itertools.islice(requests(0, held_out=True), count))
    replies = sample_replies(model, tokenizer, [request.text for request in asked], seed=0)
    shares = {each: sum(style(reply) == each for reply in replies) / count for each in (*STYLES, "other")}
    right = sum(request.is_answered_by(reply) for request, reply in zip(asked, replies, strict=True)) / count
    print(" ".join(f"{name} {share:.3f}" for name, share in shares.items()), f"right {right:.3f}")


if __name__ == "__main__":
    main()
