"""Prepared images → batches, in an order that depends on the seed and the step only."""
