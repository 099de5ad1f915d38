"""Checkpoints: what they hold, how they are written and verified, and going on from one."""
