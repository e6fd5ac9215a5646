"""Training: losses, the train step, data, checkpoints and the Trainer."""
