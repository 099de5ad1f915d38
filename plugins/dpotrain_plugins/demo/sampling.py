"""Draws replies from a policy without leaving a trace in the run that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LONGEST_REPLY = 48
_BATCH = 200


def sample_replies(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], seed: int
) -> list[str]:
    """Return one reply to each request, sampled at temperature 1 from all tokens; the same for the same ``seed``.

    Each request is a conversation of one turn. The random state of torch is put back afterwards, so that training goes
    on exactly as without the sampling.
    """
    import torch

    device = policy.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        replies: list[str] = []
        for start in range(0, len(requests), _BATCH):
            batch = _left_padded(tokenizer, requests[start : start + _BATCH]).to(device)
            sampled = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            longest, pad = _LONGEST_REPLY, tokenizer.pad_token_id
            tokens = policy.generate(**batch, **sampled, max_new_tokens=longest, pad_token_id=pad)
            new = tokens[:, batch["input_ids"].shape[1] :]
            replies += tokenizer.batch_decode(new, skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def _left_padded(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str]) -> Any:
    """Return ``input_ids`` and ``attention_mask``, each (requests, longest), the prompts ending together."""
    prompts = [
        tokenizer.apply_chat_template([each], add_generation_prompt=True, tokenize=False)
        for each in ({"role": "user", "content": request} for request in requests)
    ]
    # The template has already written the special tokens.
    return tokenizer(
        prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )
