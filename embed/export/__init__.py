"""Vectors for other programs: Parquet, AnnData, the TensorBoard projector and Embedding Atlas, by research ids alone.

docs/export.md says what each file holds and how it is opened.
"""

from embed.export.chosen import Chosen, choose_folder, choose_study
from embed.export.verb import FORMATS, export_vectors

__all__ = ["FORMATS", "Chosen", "choose_folder", "choose_study", "export_vectors"]
