"""Versions of the installed packages, for the record of a run, a backbone card or a checkpoint."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Sequence

RUN_PACKAGES = (
    "pellucid",
    "torch",
    "timm",
    "lightly",
    "numpy",
    "scikit-learn",
    "umap-learn",
    "hdbscan",
    "faiss-cpu",
)


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that is installed; one that is not installed has no entry."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def run_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's results."""
    return {"python": platform.python_version(), **package_versions(RUN_PACKAGES)}
