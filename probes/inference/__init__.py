"""Scores with intervals and p-values, by resampling patients."""
