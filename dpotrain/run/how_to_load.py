"""Python that loads the result of a run and lets it answer, for people to copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def loading_code(said: str) -> str:
    """Return what an adapter says of loading its result, as Python that assigns ``model``: imports first.

    ``said`` may be a single expression, and may use AutoModelForCausalLM without importing it.
    """
    lines = said.strip().splitlines() or ["None"]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    code = [line for line in lines if line not in imports]
    if not any(line.startswith("model =") for line in code):
        code[0] = f"model = {code[0]}"
    return "\n".join(["from transformers import AutoModelForCausalLM, AutoTokenizer", *imports, "", *code])


def how_to_load(said: str, folder: Path, tokenizer: Any) -> str:
    """Return a script that loads the result in ``folder`` and prints an answer.

    ``said`` is that of :func:`loading_code`, ``tokenizer`` the one that is saved beside the weights.
    """
    if getattr(tokenizer, "chat_template", None):
        inputs = [
            'messages = [{"role": "user", "content": "Hello! What can you do for me?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        inputs = ['inputs = tokenizer("Once upon a time", return_tensors="pt")']
    return "\n".join(
        [
            loading_code(said),
            f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(str(folder), ensure_ascii=False)})",
            *inputs,
            "output = model.generate(**inputs, max_new_tokens=100)",
            'print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )
