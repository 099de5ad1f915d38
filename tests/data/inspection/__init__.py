"""Tests of what is found in data before training."""
