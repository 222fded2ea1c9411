"""Vectors on disk: one row per image, with a table of the images in the same order."""

from pellucid.embed.store.catalogue import TAKEN_OUT, choose_vectors, masked_vectors, newest_vectors
from pellucid.embed.store.vectors import Vectors, load_vectors, write_vectors
from pellucid.embed.store.withdrawal import failures_of, forget_in_embed, forget_in_store

__all__ = [
    "TAKEN_OUT",
    "Vectors",
    "choose_vectors",
    "failures_of",
    "forget_in_embed",
    "forget_in_store",
    "load_vectors",
    "masked_vectors",
    "newest_vectors",
    "write_vectors",
]
