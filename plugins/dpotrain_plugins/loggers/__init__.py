"""Loggers: wandb, TensorBoard, MLflow and Trackio."""
