"""``nonfinite_pairs.jsonl``: the pairs of steps whose loss or gradient was not finite, for a person to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dpotrain.data.batches.plan import Indices
    from dpotrain.data.tokens.tokenized import TokenizedPairs


def write_pairs(
    file: Path, step: int, data: TokenizedPairs, pairs: Indices, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Append one line a pair, as the model saw it, and return a line that says where they are, or why nowhere."""

    def line(index: int) -> str:
        pair = data[index]
        parts: dict[str, Any] = {
            name: tokenizer.decode(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")
        }
        return json.dumps({"step": step, "row": pair.row, **parts}, ensure_ascii=False) + "\n"

    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(line(int(index)) for index in pairs)
    except OSError as error:
        return f"They could not be written to {file}: {error.strerror or error}.\n"
    return f"They are in {file}.\n"
