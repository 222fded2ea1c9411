"""The read pass: list the files, decode each once, record what was found."""

from pellucid.cohort.intake.file_listing import Listing, list_folder
from pellucid.cohort.intake.file_record import bytes_of
from pellucid.cohort.intake.sandbox import read_files

__all__ = ["Listing", "bytes_of", "list_folder", "read_files"]
