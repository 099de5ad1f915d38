"""Samples: a callback that has the policy answer held-out prompts at every evaluation."""

from __future__ import annotations

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Callback, HeldOutPair, Record, Run

dpotrain_interface = 2


class Answers(Callback):
    """Logs greedy answers to the first held-out prompts, as texts, and their mean length as a number."""

    name = "answers"

    class Options(Callback.Options):
        """The keys of a ``[[callbacks]]`` table with ``use = "answers"``."""

        prompts: int = Field(4, ge=1, description="How many held-out prompts are answered.")
        max_tokens: int = Field(64, ge=1, description="Most tokens of an answer.")

    options: Options

    @hookimpl
    def dpotrain_evaluated(self, run: Run, evaluation: Record) -> None:
        """Answer the prompts, beside what the data prefers."""
        rows, tokens = [], 0
        for pair in run.held_out()[: self.options.prompts]:
            answer = self._answer(run, pair)
            text = run.tokenizer.decode(answer, skip_special_tokens=True)
            rows.append({"prompt": pair.prompt, "chosen": pair.chosen, "answer": text})
            tokens += len(answer)
        run.log_text("answers", rows)
        run.log(**{"answers/tokens": tokens / len(rows)})

    def _answer(self, run: Run, pair: HeldOutPair) -> list[int]:
        import torch

        ids = torch.tensor([pair.prompt_ids], device=run.device)
        with run.inference():
            found = run.policy.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.options.max_tokens,
                do_sample=False,
                pad_token_id=run.tokenizer.pad_token_id,
            )
        new: list[int] = found[0, ids.shape[1] :].tolist()
        return new


@hookimpl
def dpotrain_callbacks() -> list[type[Callback]]:
    """Offer the callback."""
    return [Answers]
