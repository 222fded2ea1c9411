"""The training loop, checkpoints and resuming."""
