"""The search index of a vector store: chosen by size and memory, tuned to a measured recall, checked at every opening."""

from embed.index.choose import IndexConfig, choose_kind
from embed.index.elsewhere import search_elsewhere
from embed.index.extend import extend_index
from embed.index.made import build_index
from embed.index.opened import Index, open_index
from embed.index.sentence import index_sentence
from embed.index.stored import read_record, verify_index

__all__ = [
    "Index",
    "IndexConfig",
    "build_index",
    "choose_kind",
    "extend_index",
    "index_sentence",
    "open_index",
    "read_record",
    "search_elsewhere",
    "verify_index",
]
