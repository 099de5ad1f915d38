"""Past runs read back from their folders."""
