"""Export vectors to Parquet, AnnData, the TensorBoard projector or Embedding Atlas, with research ids only.

docs/export.md describes the files and how to open them.
"""

from pellucid.embed.export.command import FORMATS, export_vectors
from pellucid.embed.export.selection import Chosen, choose_folder, choose_study

__all__ = ["FORMATS", "Chosen", "choose_folder", "choose_study", "export_vectors"]
