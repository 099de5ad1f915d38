"""Metrics: length."""
