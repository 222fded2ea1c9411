"""Unlabeled images to a backbone: methods, views, data, the training loop, checkpoints and export."""
