"""Hostile checkpoints, models, templates and data; secrets that must not get out; files that are the user's own."""
