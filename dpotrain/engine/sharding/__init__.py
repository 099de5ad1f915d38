"""Weights that several processes hold together: sharded, gathered whole, read row by row."""
