"""Images → frozen vectors."""

from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.extract.patient_vectors import embed_patients
from pellucid.embed.extract.plain_folder import embed_folder, folder_options
from pellucid.embed.extract.stage import embed
from pellucid.embed.extract.workers import in_threads

__all__ = ["EmbedConfig", "embed", "embed_folder", "embed_patients", "folder_options", "in_threads"]
