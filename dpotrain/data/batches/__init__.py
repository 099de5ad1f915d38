"""Which pairs form a step, how steps are cut into micro-batches, and micro-batches as tensors."""
