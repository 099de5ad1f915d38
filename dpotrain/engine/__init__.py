"""The DPO engine: scorer, losses, reference, training loop, evaluation."""
