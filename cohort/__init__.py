"""What the images are: reading, the one-pass scan, the source audit, splits, phantom data, study and run folders."""
