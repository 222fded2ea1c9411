"""The nearest images of other patients: what the explorer shows beside an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest_elsewhere(
    index: Any, vector: NDArray[np.float32], patients: NDArray[Any], query: int, n: int
) -> list[tuple[int, float]]:
    """The n nearest rows by cosine that belong to other patients, one row a patient.

    Args:
        index: FAISS index over rows of length 1, by inner product.
        vector: (d,) of length 1.
        patients: (rows,) patient of each row.
        query: the row that is asked about; its patient is passed over.

    Returns:
        (row, cosine similarity), the most similar first.
    """
    k = min(8 * n + int((patients == patients[query]).sum()), index.ntotal)
    while True:
        similarity, rows = index.search(vector[None, :], k)
        found: list[tuple[int, float]] = []
        seen = {patients[query]}
        for row, value in zip(rows[0].tolist(), similarity[0].tolist(), strict=True):
            if row >= 0 and patients[row] not in seen and len(found) < n:
                seen.add(patients[row])
                found.append((int(row), float(value)))
        if len(found) == n or k == index.ntotal:
            return found
        k = min(4 * k, index.ntotal)  # a few patients with very many images fill the first places
