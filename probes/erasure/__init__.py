"""Remove a factor from vectors."""

from pellucid.probes.erasure.stage import take_out

__all__ = ["take_out"]
