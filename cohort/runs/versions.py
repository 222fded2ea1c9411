"""Versions of the packages recorded with every run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform


def package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (
        "pellucid",
        "torch",
        "timm",
        "lightly",
        "numpy",
        "scikit-learn",
        "umap-learn",
        "hdbscan",
        "faiss-cpu",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
