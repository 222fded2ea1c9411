"""FAISS without its type stubs, which lack the selectors, search parameters and loops used here."""

from __future__ import annotations

import importlib
from typing import Any

faiss: Any = importlib.import_module("faiss")
