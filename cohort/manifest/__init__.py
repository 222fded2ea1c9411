"""Images joined with the clinical table: manifest, split, research ids."""

from pellucid.cohort.manifest.cell_values import (
    as_ids,
    as_level_text,
    as_numbers,
    as_text,
    holds_lists,
    missing_cells,
    only_numbers,
    taken_sentence,
    words_taken,
)
from pellucid.cohort.manifest.date_columns import UnsureDates, is_day
from pellucid.cohort.manifest.declared_columns import date_part, days_of
from pellucid.cohort.manifest.research_ids import hash_share, research_ids, with_captions
from pellucid.cohort.manifest.staff_names import keyed_column, named_columns, secret_digest, staff_word
from pellucid.cohort.manifest.table_file import load_table

__all__ = [
    "UnsureDates",
    "as_ids",
    "as_level_text",
    "as_numbers",
    "as_text",
    "date_part",
    "days_of",
    "hash_share",
    "holds_lists",
    "is_day",
    "keyed_column",
    "load_table",
    "missing_cells",
    "named_columns",
    "only_numbers",
    "research_ids",
    "secret_digest",
    "staff_word",
    "taken_sentence",
    "with_captions",
    "words_taken",
]
