"""The nearest-neighbour graph against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.embed.index.knn_graph import knn_graph, normalised


@given(st.integers(2, 60), st.integers(1, 16), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_graph_is_exact_and_starts_with_oneself(n: int, dim: int, k: int, copies: int) -> None:
    rng = np.random.default_rng(n * 1000 + dim)
    values = rng.normal(size=(n, dim)).astype(np.float32)
    for c in range(min(copies, n - 1)):  # duplicates must not push the point itself out of column 0
        values[c + 1] = values[0]
    found, distances = knn_graph(values, k)
    k = min(k, n)
    assert found.shape == distances.shape == (n, k)
    assert (found[:, 0] == np.arange(n)).all()
    assert (np.diff(distances, axis=1) >= -1e-6).all()
    unit = normalised(values)
    exact = np.sort(1 - unit @ unit.T, axis=1)[:, :k]
    assert np.allclose(distances, np.clip(exact, 0, 2), atol=1e-5)
    assert all(len(set(row)) == k for row in found.tolist())
