"""LLaMA-Factory's side: its DPO stage over a workload, in the interpreter of an environment that has it.

python -m tests.benchmarks.llamafactory_side WORKLOAD.json RESULT.json [--checkpointing]
"""

import json
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp

from tests.benchmarks.hf_side import Steps, command_line, rows, shared_settings
from tests.benchmarks.workload import Workload

#: How its ``dataset_info.json`` describes rows of messages.
DATASET = {
    "file_name": "pairs.json",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def train(workload: Workload, scratch: Path, checkpointing: bool) -> dict[str, Any]:
    # An answer is one message here, not a list of them.
    pairs = [{**row, "chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in rows(workload)]
    (scratch / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    (scratch / "dataset_info.json").write_text(json.dumps({"pairs": DATASET}), encoding="utf-8")
    steps = Steps(workload.steps_per_epoch)
    run_exp(settings(workload, scratch, checkpointing), [steps])
    return steps.result()


def settings(workload: Workload, scratch: Path, checkpointing: bool) -> dict[str, Any]:
    found = {
        **shared_settings(workload, scratch, checkpointing),
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": workload.model,
        "flash_attn": "sdpa",
        "disable_gradient_checkpointing": not checkpointing,
        "pref_beta": workload.beta,
        "pref_loss": "sigmoid",
        "dataset": "pairs",
        "dataset_dir": str(scratch),
        # Without `template` the tokenizer's own chat template is used.
        "cutoff_len": workload.max_length,
        "disable_shuffling": True,
        "finetuning_type": "full" if workload.mode == "full" else "lora",
    }
    if workload.mode == "full":
        found["pure_bf16"] = workload.weights == "bfloat16"
    else:
        found |= {
            "lora_rank": workload.rank,
            "lora_alpha": workload.alpha,
            "lora_dropout": 0.0,
            "lora_target": "all",
        }
    if workload.mode == "qlora":
        found |= {"quantization_bit": 4, "quantization_method": "bnb", "quantization_type": "nf4"}
    return found


if __name__ == "__main__":
    command_line(train, "checkpointing")
