"""Packed attention: segments of a row, and the kernels that compute them."""
