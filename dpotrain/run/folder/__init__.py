"""The run folder: its files, its lock, its log."""

from dpotrain.core.moved import names_of

__getattr__ = names_of(__name__)
