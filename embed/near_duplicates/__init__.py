"""Find the same picture under two patients, and outliers, by their vectors."""

from pellucid.embed.near_duplicates.stage import NearConfig, near

__all__ = ["NearConfig", "near"]
