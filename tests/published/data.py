"""Rows written here, in the columns of the data sets that published recipes name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.run.recipes import sentence

Row = dict[str, Any]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


class Writer:
    """Draws prompts and answers; the first pair's answers have at least ``longest`` tokens each."""

    def __init__(self, longest: int = 0, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.longest = longest
        self.number = 0

    def pair(self) -> tuple[str, str, str]:
        """Return a prompt and two answers."""
        self.number += 1
        prompt = f"{self.number} {sentence(self.draw, 2, 12)}?"
        answers = [sentence(self.draw, 2, 16) for _ in range(2)]
        if self.number == 1:  # a word is at least a token
            answers = [f"{one} {'dog ' * self.longest}end" for one in answers]
        return prompt, answers[0], answers[1]

    def conversations(self) -> tuple[str, list[dict[str, str]], list[dict[str, str]]]:
        """Return a prompt's text and two conversations; every fourth pair has earlier turns."""
        prompt, chosen, rejected = self.pair()
        before = [_turn("user", prompt)]
        if self.number % 4 == 0:
            before += [_turn("assistant", sentence(self.draw, 2, 8)), _turn("user", "And then?")]
        return prompt, [*before, _turn("assistant", chosen)], [*before, _turn("assistant", rejected)]


def tulu(writer: Writer) -> Row:
    """allenai/llama-3.1-tulu-3-8b-preference-mixture"""
    prompt, chosen, rejected = writer.conversations()
    return {
        "id": f"row-{writer.number}",
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "source": "words",
    }


def dolci(writer: Writer) -> Row:
    """allenai/Dolci-Instruct-DPO"""
    _, chosen, rejected = writer.conversations()
    models = {"chosen_model": "large", "rejected_model": "small"}
    more = {"prompt_id": f"row-{writer.number}", "preference_type": "delta_learning"}
    return {"chosen": chosen, "rejected": rejected, **models, **more}


def mixed(writer: Writer) -> Row:
    """One of the ten sets of Olmo 3 7B Instruct, with the two columns that open-instruct reads."""
    _, chosen, rejected = writer.conversations()
    return {"chosen": chosen, "rejected": rejected}


def thinking(writer: Writer) -> Row:
    """allenai/Dolci-Think-DPO-7B"""
    prompt, chosen, rejected = writer.conversations()
    chosen[-1]["content"] = f"<think>{sentence(writer.draw, 1, 4)}</think>{chosen[-1]['content']}"
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def ultrafeedback(writer: Writer) -> Row:
    """HuggingFaceH4/ultrafeedback_binarized"""
    _, chosen, rejected = writer.conversations()
    scores = {"score_chosen": 8.0, "score_rejected": 3.5}
    more = {"prompt_id": f"row-{writer.number}", "messages": chosen}
    return {"prompt": chosen[0]["content"], "chosen": chosen, "rejected": rejected, **scores, **more}


def argilla(writer: Writer) -> Row:
    """argilla/dpo-mix-7k"""
    _, chosen, rejected = writer.conversations()
    ratings = {"chosen_rating": 5.0, "rejected_rating": 2.0}
    return {"dataset": "words", "chosen": chosen, "rejected": rejected, **ratings}


def princeton(writer: Writer) -> Row:
    """princeton-nlp/llama3-ultrafeedback-armorm"""
    prompt, chosen, rejected = writer.pair()
    answers = [[_turn("user", prompt), _turn("assistant", one)] for one in (chosen, rejected)]
    generated = {"all_generated_responses": [chosen, rejected], "all_rm_scores": [0.2, 0.1]}
    row = {"prompt_id": f"row-{writer.number}", "prompt": prompt, **generated}
    return row | {"chosen": answers[0], "rejected": answers[1]}


def orpo_mix(writer: Writer) -> Row:
    """mlabonne/orpo-dpo-mix-40k"""
    prompt, chosen, rejected = writer.conversations()
    return {"source": "words", "chosen": chosen, "rejected": rejected, "prompt": prompt, "question": ""}


def smoltalk(writer: Writer) -> Row:
    """HuggingFaceTB/smoltalk2, Preference"""
    prompt, chosen, rejected = writer.conversations()
    kwargs = {"custom_instructions": None, "enable_thinking": False, "python_tools": [], "xml_tools": []}
    return {
        "chosen": chosen,
        "rejected": rejected,
        "prompt": prompt,
        "chat_template_kwargs": kwargs,
        "source": "words",
    }


def smoltalk_thinking(writer: Writer) -> Row:
    """The same with reasoning."""
    row = smoltalk(writer)
    row["chat_template_kwargs"] = row["chat_template_kwargs"] | {"enable_thinking": True}
    for answer in (row["chosen"][-1], row["rejected"][-1]):
        answer["content"] = f"<think>\n{sentence(writer.draw, 1, 4)}\n</think>\n{answer['content']}"
    return row


#: Rows by the data set that recipes name; those of smoltalk2 by split.
ROWS: dict[str, Callable[[Writer], Row]] = {
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": tulu,
    "allenai/llama-3.1-tulu-3-70b-preference-mixture": tulu,
    "allenai/olmo-2-1124-7b-preference-mix": tulu,
    "allenai/olmo-2-1124-13b-preference-mix": tulu,
    "allenai/Dolci-Instruct-DPO": dolci,
    "allenai/Dolci-Think-DPO-7B": thinking,
    "HuggingFaceH4/ultrafeedback_binarized": ultrafeedback,
    "argilla/dpo-mix-7k": argilla,
    "princeton-nlp/llama3-ultrafeedback": princeton,
    "princeton-nlp/llama3-ultrafeedback-armorm": princeton,
    "princeton-nlp/gemma2-ultrafeedback-armorm": princeton,
    "mlabonne/orpo-dpo-mix-40k": orpo_mix,
}
SMOLTALK = {
    "llama_3.1_tulu_3_8b_preference_mixture_no_think": smoltalk,
    "tulu_3_8b_pref_mix_Qwen3_32B_Qwen3_0.6B_think": smoltalk_thinking,
}


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_set(
    folder: Path, row: Callable[[Writer], Row], splits: Iterable[str], *, count: int = 40, longest: int = 0
) -> dict[str, str]:
    """Write a data set and return what ``data.name`` names it by: a file a split."""
    files = {}
    for seed, split in enumerate(splits):
        writer = Writer(longest, seed)
        files[split] = str(write_rows(folder / f"{split}.jsonl", [row(writer) for _ in range(count)]))
    return files


def write_smoltalk(folder: Path, *, count: int = 40, longest: int = 0) -> str:
    """Write a folder that declares the configuration and splits of smoltalk2, and return its name."""
    lines = ["---", "configs:", "- config_name: Preference", "  data_files:"]
    for seed, (split, row) in enumerate(SMOLTALK.items()):
        writer = Writer(longest, seed)
        write_rows(folder / f"part-{seed}.jsonl", [row(writer) for _ in range(count)])
        lines += [f"  - split: {split}", f"    path: part-{seed}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return str(folder)
