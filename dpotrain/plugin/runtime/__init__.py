"""Plugins at work: found, loaded and checked in isolation; run events, loggers, failures."""
