"""Writing an adapter into the weights of its base: the ``merge`` exporter, and the command ``dpotrain merge``."""
