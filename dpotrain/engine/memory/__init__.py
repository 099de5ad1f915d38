"""Memory: what a model, its activations and its optimizer take, and what fits."""

from dpotrain.core.moved import names_of

__getattr__ = names_of(__name__)
