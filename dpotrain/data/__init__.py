"""From rows to packed tensors: pairs, tokenizing, the batch plan, packing."""
