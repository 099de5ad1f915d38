"""What a run would take, without its weights: ``dpotrain plan``, and the calls of ``dpotrain plugins --trace``."""
