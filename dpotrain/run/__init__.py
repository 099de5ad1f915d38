"""The run: its folder, metrics file, checkpoints, signals and summary."""

from dpotrain.core.moved import names_of

__getattr__ = names_of(__name__)
