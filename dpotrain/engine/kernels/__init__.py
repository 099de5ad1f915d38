"""Norms, gated products and rotary embeddings as functions with a backward pass each, and Triton kernels for CUDA."""
