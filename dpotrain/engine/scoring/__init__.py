"""Log-probs of completions: the scorers, the proof that a model can be packed, precision."""
