"""Configurations of TRL, axolotl, LLaMA-Factory and ms-swift to a recipe.

``configuration.py`` reads a file or a command line, ``tools.py`` says whose it is, one module a tool has what its keys
mean, ``translation.py`` collects what becomes of each, and ``report.py`` says so.
"""
