"""Metrics: length, and what is likely by token."""
