"""Phenotypes and quality of an image, as numbers and grades."""
