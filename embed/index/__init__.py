"""The search index of a vector store: chosen by size and memory, tuned to a measured recall, checked whenever
opened."""

from pellucid.embed.index.build import build_index
from pellucid.embed.index.index_files import read_record, verify_index
from pellucid.embed.index.kind import IndexConfig, choose_kind
from pellucid.embed.index.knn_graph import knn_graph, normalised
from pellucid.embed.index.other_patients import search_elsewhere
from pellucid.embed.index.query import Index, open_index
from pellucid.embed.index.summary import index_sentence, stored_sentence
from pellucid.embed.index.update import extend_index

__all__ = [
    "Index",
    "IndexConfig",
    "build_index",
    "choose_kind",
    "extend_index",
    "index_sentence",
    "knn_graph",
    "normalised",
    "open_index",
    "read_record",
    "search_elsewhere",
    "stored_sentence",
    "verify_index",
]
