"""A phantom study with known truth."""

from pellucid.cohort.phantom.population import PhantomConfig, write_phantom

__all__ = ["PhantomConfig", "write_phantom"]
