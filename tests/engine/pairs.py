"""Tokenized pairs of random tokens, for tests of the engine."""

import numpy as np

from dpotrain.data.tokens.tokenized import TokenizedPair, TokenizedPairs

VOCABULARY = 384


def random_pairs(sizes: list[tuple[int, int, int]], seed: int = 0) -> TokenizedPairs:
    """Pairs of the given (prompt, chosen, rejected) lengths; every completion token is scored."""
    draw = np.random.default_rng(seed)

    def tokens(count: int) -> np.ndarray:
        return draw.integers(4, VOCABULARY, count).astype(np.int32)

    return TokenizedPairs.of(
        TokenizedPair(
            prompt=tokens(prompt),
            chosen=tokens(chosen),
            rejected=tokens(rejected),
            chosen_scored=np.ones(chosen, bool),
            rejected_scored=np.ones(rejected, bool),
            row=row,
        )
        for row, (prompt, chosen, rejected) in enumerate(sizes)
    )
