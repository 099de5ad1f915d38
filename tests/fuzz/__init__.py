"""Mutated recipes, rows and files: each is used or refused in a few lines, and never met with a traceback."""
