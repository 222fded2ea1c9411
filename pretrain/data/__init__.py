"""Batches of prepared images, in an order that depends only on seed and step."""
