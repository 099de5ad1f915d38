"""Preference pairs made of common words, with chosen lengths: what benchmarks run on where no data is given.

    python -m tests.benchmarks.synthetic --pairs 32 --prompt 120 --chosen 40 --rejected 50 > pairs.jsonl

A word is one token in most byte-pair vocabularies; a chat template adds its own tokens on top.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

_TEXT = (
    "the of and to in is that for it was on are as with they at be this from have or by one had "
    "not but what all were when we there can an your which their said if do will each about how "
    "up out them then she many some so these would other into has more her two like him see "
    "time could no make than first been its who now people my made over did down only way find "
    "use may water long little very after words called just where most know get through back "
    "much before go good new write our used me man too any day same right look think also "
    "around another came come work three word must because does part even place well such here "
    "take why things help put years different away again off went old number great tell men say "
    "small every found still between name should home big give air line set own under read last "
    "never us left end along while might next sound below saw something thought both few those "
    "always looked show large often "
)
WORDS = _TEXT.split()


def chat_pairs(
    count: int, prompt: int, chosen: int, rejected: int, spread: float = 0.3, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield conversational rows whose parts have these numbers of words on average.

    Lengths vary log-normally, as they do in real data: ``spread`` is the standard deviation of their logarithm.
    """
    draw = random.Random(seed)

    def text(words: int) -> str:
        # The mean of a log-normal is exp(mu + sigma^2 / 2).
        length = max(1, round(words * draw.lognormvariate(-(spread**2) / 2, spread)))
        return " ".join(draw.choices(WORDS, k=length))

    for _ in range(count):
        yield {
            "prompt": [{"role": "user", "content": text(prompt)}],
            "chosen": [{"role": "assistant", "content": text(chosen)}],
            "rejected": [{"role": "assistant", "content": text(rejected)}],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=120, help="mean words of a prompt")
    parser.add_argument("--chosen", type=int, default=40)
    parser.add_argument("--rejected", type=int, default=50)
    parser.add_argument("--spread", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for row in chat_pairs(args.pairs, args.prompt, args.chosen, args.rejected, args.spread, args.seed):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
