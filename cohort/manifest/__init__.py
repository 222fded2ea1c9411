"""Images joined with the clinical table: manifest, split, research ids."""

from pellucid.cohort.manifest.research_ids import hash_share, research_ids, with_captions
from pellucid.cohort.manifest.table_file import MISSING_WORDS, as_text, read_table

__all__ = ["MISSING_WORDS", "as_text", "hash_share", "read_table", "research_ids", "with_captions"]
