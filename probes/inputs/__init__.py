"""Vectors, patients and variables, checked and ready to be probed."""
