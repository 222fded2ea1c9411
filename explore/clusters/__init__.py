"""Map and clusters of the vectors."""

from pellucid.explore.clusters.stage import ClusterConfig, cluster

__all__ = ["ClusterConfig", "cluster"]
