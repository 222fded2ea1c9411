"""Self-supervised pretraining: methods, augmentation, data, training loop, monitoring and export of a backbone."""
