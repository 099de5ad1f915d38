"""Quantizers: bitsandbytes and torchao."""
