"""What is done to a model's layers: memory-efficient forwards, activation checkpointing, compilation."""
