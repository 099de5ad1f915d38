"""Run folders as runs leave them, made up: every file, numbers that look like training, texts that are hostile."""

import json
import math
import random
from pathlib import Path
from typing import Any

import tomli_w

#: Texts that a page must show and not obey.
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "]]> --> <!-- &lt;b&gt;",
    "\x1b[2J\x1b]0;owned\x07 \u202eevil",
)

RECIPE: dict[str, Any] = {
    "seed": 7,
    "run": {"output_dir": "runs/made-up", "cache_dir": "auto"},
    "model": {"use": "transformers", "name": "org/tiny-chat"},
    "adapter": {"use": "lora", "rank": 16, "alpha": 32.0},
    "data": {"use": "hf-datasets", "name": "pairs.jsonl", "eval_fraction": 0.1, "max_length": 512},
    "reference": {"of": "initial-policy", "when": "auto"},
    "loss": {"use": "dpo", "beta": 0.1, "label_smoothing": 0.0},
    "training": {"epochs": 1, "pairs_per_step": 8},
    "optimizer": {"use": "adamw", "lr": 5e-6},
}
DATA_REPORT: dict[str, Any] = {
    "format": "conversational",
    "decided_by": "data format: conversational (recognised in 200 of 200 rows sampled)",
    "max_length": 512,
    "pairs": {"train": 800, "evaluation": 60},
    "chat_template_ignored": False,
    "clock": None,
    "shared_prompts": 0,
    "shared_prompt_rows": [],
    "splits": {
        "train": {
            "rows_read": 870, "rows_dropped": 10, "pairs_kept": 860,
            "dropped": {"both answers are the same <b>": {"count": 10, "first_rows": [3, 17]}},
            "notes": {}, "boundaries_moved": 0, "completions_cut": 2, "turns_unscored": 0, "open_ended": 0,
            "plain_text": 0, "first_rows": {}, "unused_columns": {"source": 860},
            "lengths": {
                part: {"min": 3.0, "median": 20.0, "p95": 60.0, "p99": 90.0, "max": 120.0, "mean": 25.0}
                for part in ("prompt", "chosen", "rejected", "sequence", "total")
            },
            "uncut_lengths": {}, "histogram": {"24": 200, "32": 400, "48": 260},
            "length_bias": {"chosen_longer": 500, "rejected_longer": 300, "mean_difference": 3.5},
            "duplicates": {"count": 1, "first_rows": [7], "earlier_rows": [2]},
            "contradictions": {"count": 0, "first_rows": [], "earlier_rows": []},
        }
    },
    "fingerprints": {"train": "abc"},
}  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux",
    "packages": {"dpotrain": "0.1.0", "torch": "2.13.0", "absent": None},
    "devices": ["cpu, 2 threads of 2 cores"],
    "processes": 1,
    "command": ["dpotrain", "run", "mine.toml"],
    "plugins": [],
}


def metrics(step: int, total: int, noise: float, kind: str) -> dict[str, float]:
    """Return numbers that learn: margins grow, the chosen reward falls a little."""
    done = step / total
    margin = 0.0 if step == 0 else 1.8 * (1 - math.exp(-3 * done)) + noise
    found = {
        "loss": math.log(2) if step == 0 else math.log1p(math.exp(-margin)),
        "epoch": done,
        "rewards/chosen": -0.2 * done + noise / 3,
        "rewards/rejected": -0.2 * done + noise / 3 - margin,
        "rewards/accuracies": 0.5 if step == 0 else min(1.0, 0.55 + 0.3 * done + noise / 5),
        "rewards/margins": margin,
        "logps/chosen": -60.0 - 3 * done,
        "logps/rejected": -62.0 - 20 * done,
        "pairs_per_second": 3.2 + noise,
        "tokens_per_second": 1200 + 300 * noise,
        "peak_memory_mb": 3200.0,
    }
    if kind == "train":
        found |= {"grad_norm": 2.0 + noise, "learning_rate": 5e-6 * (1 - done)}
    return found


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def past_run(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 200,
    every: int = 50,
    held_out: int = 60,
    skill: float = 0.0,
    recipe: dict[str, dict[str, Any]] | None = None,
    summary: bool = True,
) -> Path:
    """Write a run folder; ``skill`` moves all margins, ``recipe`` changes tables of the recipe."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    changes = {**(recipe or {}), "run": {"output_dir": str(folder)}}
    tables = {
        name: {**table, **changes.get(name, {})} if isinstance(table, dict) else table
        for name, table in RECIPE.items()
    }
    (folder / "recipe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    report = {**DATA_REPORT, "pairs": {"train": 800, "evaluation": held_out}}
    (folder / "data_report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT), encoding="utf-8")
    (folder / "checkpoints" / f"step-{steps:08d}").mkdir(parents=True, exist_ok=True)

    texts = random.Random(1)
    questions = [f"Question {number}: what is {texts.randint(2, 99)} times 7?" for number in range(held_out)]
    pairs = [
        {
            "row": 3 * number,
            "prompt": (*HOSTILE, *questions)[number],
            "chosen": f"A patient answer, number {number}. " * 3,
            "rejected": f"Figure it out yourself. ({number})",
        }
        for number in range(held_out)
    ]
    write_lines(folder / "evaluations" / "pairs.jsonl", pairs)
    talent = [texts.gauss(0.3, 0.8) for _ in pairs]
    records, samples = [], []
    for step in range(0, steps + 1, 5):
        if step:
            records.append(
                {"kind": "train", "step": step, **metrics(step, steps, draw.gauss(0, 0.08), "train")}
            )
        if step % every == 0:
            margins = [
                0.0 if step == 0 else (gift + skill) * (0.3 + step / steps) + draw.gauss(0, 0.25)
                for gift in talent
            ]
            right = [0.5 if margin == 0 else float(margin > 0) for margin in margins]
            measured = metrics(step, steps, draw.gauss(0, 0.04), "eval") | {
                "rewards/accuracies": sum(right) / len(right),
                "rewards/margins": sum(margins) / len(margins),
                "pairs": held_out,
            }
            records.append({"kind": "eval", "step": step, **measured})
            write_lines(
                folder / "evaluations" / f"step-{step:08d}.jsonl",
                [
                    {"row": pair["row"], "margin": margin, "chosen": margin / 3, "rejected": -2 * margin / 3}
                    for pair, margin in zip(pairs, margins, strict=True)
                ],
            )
            prompts = (*HOSTILE[:2], "Hello, who are you?")
            answers = [{"prompt": text, "answer": f"At step {step}: {text[::-1]}"} for text in prompts]
            samples.append({"step": step, "samples": answers})
    write_lines(folder / "metrics.jsonl", records)
    write_lines(folder / "samples.jsonl", samples)
    if summary:
        evaluations = [
            {key: value for key, value in record.items() if key != "kind"}
            for record in records
            if record["kind"] == "eval"
        ]
        final = folder / "final"
        final.mkdir(exist_ok=True)
        written = {
            "status": "finished",
            "steps": steps,
            "train": {key: value for key, value in records[-2].items() if key not in ("kind", "step")},
            "first_evaluation": evaluations[0],
            "last_evaluation": evaluations[-1],
            "best_evaluation": min(evaluations, key=lambda evaluation: evaluation["loss"]),
            "best_by": "loss",
            "seconds": 752.0,
            "pairs_per_second": 3.3,
            "tokens_per_second": 1234.5,
            "peak_memory_mb": 3220.0,
            "plan": {},
            "how_to_load": f'model = AutoModelForCausalLM.from_pretrained("{final}")',
            "error": "",
            "final": str(final),
            "demo": {
                "preferred_after": 0.9,
                "preferred_before": 0.5,
                "table": {"columns": ["a"], "rows": [[HOSTILE[0]]]},
            },
        }
        (folder / "summary.json").write_text(json.dumps(written), encoding="utf-8")
    return folder
