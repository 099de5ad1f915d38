"""The check of everything that needs a CUDA device, in under ten minutes (see README.md here)."""
