"""Probes: ridge, logistic, kNN, boosted trees."""
