"""Recipes: files, overrides, checks, errors, the resolved document and the schema."""
