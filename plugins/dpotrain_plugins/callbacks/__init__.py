"""Callbacks: early-stopping."""
