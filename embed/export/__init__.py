"""Vectors for other programs: Parquet, AnnData, the TensorBoard projector and Embedding Atlas, by research ids alone.

docs/export.md says what each file holds and how it is opened.
"""

from pellucid.embed.export.command import FORMATS, export_vectors
from pellucid.embed.export.selection import Chosen, choose_folder, choose_study

__all__ = ["FORMATS", "Chosen", "choose_folder", "choose_study", "export_vectors"]
