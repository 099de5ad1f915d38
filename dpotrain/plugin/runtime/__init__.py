"""Plugins at run time: discovery, isolated loading, checks, run events, logger threads, failures."""
