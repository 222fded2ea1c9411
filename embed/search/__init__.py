"""Find the images most similar to a query."""

from pellucid.embed.search.similar_images import parse_region, search, search_image

__all__ = ["parse_region", "search", "search_image"]
