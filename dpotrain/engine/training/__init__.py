"""The optimizer step, what is trained, and the metrics of steps."""
