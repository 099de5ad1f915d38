"""Whether the model got better: held-out metrics."""
