"""From rows to packed tensors: formats, tokens, the batch plan, packing."""
