"""What is known of a workload before anybody trains: its pairs in tokens, its arithmetic, the machine's own speed.

    python -m tests.benchmarks.prepare WORKLOAD.json RESULT.json [--synthetic PROMPT CHOSEN REJECTED SPREAD [--exact]]

In a process of its own, so that the one that starts the trainers never holds torch.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from dpotrain import load_recipe
from dpotrain.core.reporter import SilentReporter
from dpotrain.data.prepare import prepare_data
from tests.benchmarks import machine
from tests.benchmarks.flops import FORMULA, ModelShape, attended, attended_twice
from tests.benchmarks.synthetic import WORDS, chat_pairs
from tests.benchmarks.workload import Workload


def write_synthetic(
    workload: Workload, prompt: float, chosen: float, rejected: float, spread: float, *, exact: bool = False
) -> None:
    """Write pairs whose parts have these numbers of tokens on average, without what a chat template adds.

    With ``exact`` the numbers include that, as far as they are larger.
    """
    tokenizer = AutoTokenizer.from_pretrained(workload.model)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    # Small vocabularies need several tokens for a common word.
    tokens_per_word = tokens(" ".join(WORDS)) / len(WORDS)
    added = _added_by_template(tokenizer, tokens) if exact else (0, 0, 0)
    words = [
        max(1, round((wanted - more) / tokens_per_word))
        for wanted, more in zip((prompt, chosen, rejected), added, strict=True)
    ]
    rows = chat_pairs(workload.pairs, *words, spread=spread)
    Path(workload.data).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _added_by_template(
    tokenizer: PreTrainedTokenizerBase, tokens: Callable[[str], int]
) -> tuple[int, int, int]:
    """Return the tokens that the chat template adds to prompt, chosen and rejected answer."""
    word = WORDS[0]
    question, answer = ({"role": role, "content": word} for role in ("user", "assistant"))
    asked = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([question, answer], tokenize=False)
    prompt = tokens(asked) - tokens(word)
    completion = tokens(whole) - tokens(asked) - tokens(word)
    return prompt, completion, completion


def facts(workload: Workload, scratch: Path) -> dict[str, Any]:
    """Count tokens and operations of every pair that dpotrain keeps, and measure the machine."""
    recipe = scratch / "recipe.toml"
    recipe.write_text(tomli_w.dumps(workload.recipe(scratch / "run")), encoding="utf-8")
    loaded = load_recipe(recipe)
    pairs = prepare_data(loaded, loaded.model.load_tokenizer(), SilentReporter()).train
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(workload.model)
        shape = ModelShape.of(
            AutoModelForCausalLM.from_config(config), 0 if workload.mode == "full" else workload.rank
        )
    each, epoch = [], {"tokens": 0, "attended": 0, "scored": 0}
    for pair in map(pairs.__getitem__, range(len(pairs))):
        parts = (len(pair.prompt), len(pair.chosen), len(pair.rejected))
        scored = int(pair.chosen_scored.sum() + pair.rejected_scored.sum())
        sizes = (pair.length, attended(*parts), scored)
        twice = (pair.length + len(pair.prompt), attended_twice(*parts), scored)
        each.append(
            {
                "tokens": pair.length,
                "policy_flops": shape.forward(*sizes) + shape.backward(*sizes),
                "reference_flops": shape.forward(*sizes, adapter=False),
                "policy_flops_twice": shape.forward(*twice) + shape.backward(*twice),
                "reference_flops_twice": shape.forward(*twice, adapter=False),
            }
        )
        epoch = {name: epoch[name] + count for name, count in zip(epoch, sizes, strict=True)}
    dtypes = [torch.float32] if workload.precision == "fp32" else [torch.bfloat16, torch.float32]
    return {
        "pairs": each,
        "epoch": epoch,
        "shape": asdict(shape),
        "mean_tokens": {
            "prompt": float(pairs.prompt_lengths.mean()),
            "chosen": float(pairs.chosen_lengths.mean()),
            "rejected": float(pairs.rejected_lengths.mean()),
        },
        "longest_pair": int(pairs.lengths.max()),
        "flops_formula": FORMULA,
        "matrix_product_flops_per_second": max(machine.matrix_product_rate(dtype) for dtype in dtypes),
        "memory_bytes_per_second": machine.memory_rate(),
        "machine": machine.describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument(
        "--synthetic", type=float, nargs=4, metavar=("PROMPT", "CHOSEN", "REJECTED", "SPREAD")
    )
    parser.add_argument("--exact", action="store_true", help="these include what a chat template adds")
    options = parser.parse_args()
    workload = Workload.read(options.workload)
    if options.synthetic:
        write_synthetic(workload, *options.synthetic, exact=options.exact)
    with tempfile.TemporaryDirectory() as scratch:
        found = facts(workload, Path(scratch))
    options.result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
