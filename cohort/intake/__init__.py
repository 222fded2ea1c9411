"""The read pass: list the files, decode each once, record what was found."""

from pellucid.cohort.intake.file_listing import Listing, list_folder
from pellucid.cohort.intake.image_squares import read_image_apart, square_apart, squares_apart
from pellucid.cohort.intake.sandbox import start_ahead

__all__ = ["Listing", "list_folder", "read_image_apart", "square_apart", "squares_apart", "start_ahead"]
