"""The training loop: optimizer, checkpoints, resuming, stop requests, warm start and choice of the number type."""
