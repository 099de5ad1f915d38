"""ms-swift's side: its DPO over a workload, in the interpreter of an environment that has it.

python -m tests.benchmarks.swift_side WORKLOAD.json RESULT.json [--checkpointing]
"""

import json
from pathlib import Path
from typing import Any

from swift.arguments import RLHFArguments
from swift.callbacks import callbacks_map
from swift.model import MODEL_MAPPING
from swift.pipelines.train.rlhf import SwiftRLHF
from swift.template import TemplateMeta, register_template
from transformers import AutoConfig, AutoTokenizer

from tests.benchmarks.hf_side import Steps, command_line, rows, shared_settings
from tests.benchmarks.workload import Workload

#: Under this name callback and template are registered.
NAME = "dpotrain-benchmark"


def train(workload: Workload, scratch: Path, checkpointing: bool) -> dict[str, Any]:
    pairs = [
        {
            "messages": [*row["prompt"], *row["chosen"]],
            "rejected_messages": [*row["prompt"], *row["rejected"]],
        }
        for row in rows(workload)
    ]
    data = scratch / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    steps = Steps(workload.steps_per_epoch)
    callbacks_map[NAME] = lambda args, trainer: steps
    register_template(template_of(workload))
    SwiftRLHF(RLHFArguments(**settings(workload, scratch, data, checkpointing))).run()
    return steps.result()


def template_of(workload: Workload) -> TemplateMeta:
    """Return the tokenizer's chat template, as it writes one question and one answer, as a template of ms-swift.

    Its own way of using a chat template (the backend "jinja") scores the prompt as well.
    """
    tokenizer = AutoTokenizer.from_pretrained(workload.model)
    question = {"role": "user", "content": "{{QUERY}}"}
    answer = {"role": "assistant", "content": "{{RESPONSE}}"}
    prompt = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([question, answer], tokenize=False)
    suffix = whole.removeprefix(prompt).removeprefix(answer["content"])
    return TemplateMeta(NAME, prefix=[], prompt=[prompt], chat_sep=None, suffix=[suffix])


def settings(workload: Workload, scratch: Path, data: Path, checkpointing: bool) -> dict[str, Any]:
    shared = shared_settings(workload, scratch, checkpointing)
    shared["report_to"] = []
    # Several of its types may have the architecture; the plain one is named as transformers names it.
    kind = AutoConfig.from_pretrained(workload.model).model_type
    found = {
        **shared,
        "rlhf_type": "dpo",
        "model": workload.model,
        "use_hf": True,
        "model_type": kind if kind in MODEL_MAPPING else None,
        "torch_dtype": workload.weights,
        "fp16": False,  # which it would choose for weights in float32
        "attn_impl": "sdpa",
        "beta": workload.beta,
        "dataset": [str(data)],
        "split_dataset_ratio": 0.0,
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "template": NAME,
        "max_length": workload.max_length,
        "callbacks": [NAME],
        "tuner_type": "full" if workload.mode == "full" else "lora",
        "add_version": False,
        "create_checkpoint_symlink": False,
    }
    if workload.mode != "full":
        found |= {
            "lora_rank": workload.rank,
            "lora_alpha": workload.alpha,
            "lora_dropout": 0.0,
            "target_modules": ["all-linear"],
        }
    if workload.mode == "qlora":
        found |= {"quant_method": "bnb", "quant_bits": 4}
    return found


if __name__ == "__main__":
    command_line(train, "checkpointing")
