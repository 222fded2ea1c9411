"""Augmentation: batches of uint8 images → augmented views, on the training device."""
