"""Images in memory and prepared copies on disk."""

from pellucid.cohort.images.pixels import Pixels, as_prepared, encode, shrink, stretch
from pellucid.cohort.images.prepared_images import PreparedImages

__all__ = ["Pixels", "PreparedImages", "as_prepared", "encode", "shrink", "stretch"]
