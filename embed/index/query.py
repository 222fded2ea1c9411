"""An opened index: queries → the most similar rows with exact cosines, among all rows or the allowed ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.embed.index.brute_force import cosines, exact_search, lengths_of
from pellucid.embed.index.gpu import on_gpu
from pellucid.embed.index.index_files import check_vectors, read_faiss, read_record
from pellucid.embed.index.inverted_lists import list_of_row, pruned, scan
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.recall_tuning import RECALL_AT
from pellucid.embed.index.training import inner, projected, scanner
from pellucid.embed.index.untyped_faiss import faiss

EXACT_ALLOWED = 50_000  # up to this many allowed rows are searched exactly
_MAX_QUERIES = 4_096  # searched at once …
_MAX_CANDIDATES = 20_000_000  # … unless they have more candidates in total
_MORE_CANDIDATES = {"ivf-sq8": 4, "ivf-pq": 16}  # times as many for far queries and with a filter
_MORE_LISTS = 8  # times as many for far queries: those farther from every list than 499 of 500 vectors


class VectorStore(Protocol):
    """The part of `pellucid.embed.store.vectors.Vectors` that an index needs."""

    @property
    def values(self) -> NDArray[np.float32]: ...

    @property
    def spec(self) -> dict[str, Any]: ...


class Index:
    """A FAISS index and the vectors from which it was made.

    Attributes:
        kind: exact, ivf-sq8 or ivf-pq.
        record: content of `index.json`; empty for a store of the first version.
        n, dim: number and length of the vectors.
        exact_allowed: up to this many allowed rows are searched exactly.
        slack: the exact cosine exceeds the score of a code by at most this; None: compute all exact cosines.
    """

    def __init__(self, index: Any, values: NDArray[np.float32], record: dict[str, Any], device: str = "cpu") -> None:
        self.faiss, self.values, self.record = index, values, record
        self.n, self.dim = values.shape
        self._ivf = inner(index)
        self.kind = str(record.get("kind", "exact" if self._ivf is None else "ivf-sq8"))
        self.nprobe = int(record.get("nprobe") or (0 if self._ivf is None else self._ivf.nprobe))
        self.factor = int(record.get("factor", 1))
        self.exact_allowed = EXACT_ALLOWED
        self.slack = record.get("slack")
        self._margin = record.get("margin")  # a list may be this much farther than the nearest one
        self._n_candidates = 0  # so far
        self._lengths: NDArray[np.float32] | None = None
        self._far = float(record.get("far", -np.inf))
        self._gpu = on_gpu(index, int(record.get("bytes", 4 * values.size))) if device != "cpu" else None
        if self._gpu is not None and self._ivf is not None:
            self._gpu[0].nprobe = self.nprobe

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` most similar rows to each query.

        Args:
            queries: (m, dim) float32 vectors of any length.
            k: number of rows to find.
            allowed: (n,) mask of the rows that may be found; None: all. A filter does not lower the recall: up to
                50,000 allowed rows are searched exactly; with more, as many allowed rows are scanned as a search
                without a filter scans rows.

        Returns:
            (m, k) cosines, −1 to 1, and (m, k) rows, the most similar first; padded with −inf and −1.

        Raises:
            ValueError: another dimension, or a query with NaN or infinite values.
        """
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {queries.shape}; (m, {self.dim}) is needed")
        if not np.isfinite(queries).all():
            raise ValueError("a query vector contains NaN or infinite values")
        if allowed is not None and allowed.shape != (self.n,):
            raise ValueError(f"`allowed` has shape {allowed.shape}; ({self.n},) is needed")
        unit = normalised(queries)
        similarity = np.full((len(unit), k), -np.inf, np.float32)
        rows = np.full((len(unit), k), -1, np.int64)
        few = None
        if allowed is not None:
            if allowed.all():
                allowed = None
            elif self._ivf is not None and int(allowed.sum()) <= self.exact_allowed:
                few = np.flatnonzero(allowed)
        take = min(k, self.n if allowed is None else int(allowed.sum()))
        most = self.factor * max(k, RECALL_AT) * (1 if allowed is None else _MORE_CANDIDATES.get(self.kind, 1))
        lists = self._ivf is not None and few is None
        step = max(1, min(_MAX_QUERIES, _MAX_CANDIDATES // most)) if lists else _MAX_QUERIES
        for start in range(0, len(unit) if take else 0, step):
            part = slice(start, start + step)
            if few is not None:
                found = exact_search(self.values, unit[part], take, few)
            elif self._ivf is None:
                found = self._flat(unit[part], take, allowed)
            else:
                found = self._lists(unit[part], take, allowed)
            similarity[part, :take], rows[part, :take] = found
        return similarity, rows

    def _flat(
        self, unit: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if allowed is not None:
            return self.faiss.search(unit, k, params=faiss.SearchParameters(sel=_selector(allowed)))  # type: ignore[no-any-return]
        searched = self._gpu[0] if self._gpu is not None else self.faiss
        return searched.search(unit, k)  # type: ignore[no-any-return]

    def _lists(
        self, unit: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        wanted = min(self.n, self.factor * max(k, RECALL_AT))  # never fewer than in tuning
        # Distant neighbours have similar cosines, and codes order them poorly: take more candidates.
        more = min(self.n, _MORE_CANDIDATES[self.kind] * wanted)
        # nprobe was tuned for twenty neighbours; many neighbours are spread over more lists.
        nprobe = min(self._ivf.nlist, max(self.nprobe, round(self.nprobe * k / 100)))
        if allowed is None and self._gpu is not None and nprobe == self.nprobe:
            scores, found = self._gpu[0].search(unit, wanted)
            return self._exactly(unit, found, scores, k, None)
        inner_queries = projected(self.faiss, unit)
        near, lists = self._ivf.quantizer.search(inner_queries, nprobe)
        far = near[:, 0] < self._far
        similarity, rows = np.empty((len(unit), k), np.float32), np.empty((len(unit), k), np.int64)
        for which, probes in ((~far, nprobe), (far, min(self._ivf.nlist, _MORE_LISTS * nprobe))):
            which = np.flatnonzero(which)
            if not len(which):
                continue
            which = which[np.argsort(lists[which, 0], kind="stable")]  # queries of one list share cached rows
            part = np.ascontiguousarray(inner_queries[which])
            if allowed is not None:
                candidates = self._allowed_lists(part, more, allowed, nprobe)
            elif probes == nprobe:
                margin = self._margin if k <= RECALL_AT and not far[which].any() else None  # as in tuning
                some = pruned(near[which], lists[which], margin)
                candidates = scan(self._scanner, part, wanted, near[which], some)
                few = (candidates[0] >= 0).sum(axis=1) < k  # the lists within the margin contained too few rows
                if margin is not None and few.any():
                    again = scan(self._scanner, part[few], wanted, near[which[few]], lists[which[few]])
                    candidates[0][few], candidates[1][few] = again
            else:
                candidates = scan(self._scanner, part, more, *self._ivf.quantizer.search(part, probes))
            similarity[which], rows[which] = self._exactly(unit[which], *candidates, k, allowed)
        return similarity, rows

    def _exactly(
        self,
        unit: NDArray[np.float32],
        found: NDArray[np.int64],
        scores: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Candidates ordered by exact cosine; an exact search if the lists contained too few."""
        short = (found >= 0).sum(axis=1) < k
        similarity, rows = self._best_of(np.ascontiguousarray(unit), found, scores, k)
        if short.any():
            among = None if allowed is None else np.flatnonzero(allowed)
            similarity[short], rows[short] = exact_search(self.values, unit[short], k, among)
        return similarity, rows

    def _best_of(
        self, unit: NDArray[np.float32], found: NDArray[np.int64], scores: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best candidates by exact cosine; after the first 2 k by score, only those that can still be among
        them."""
        lengths, width = self._lengths_for(found.size), found.shape[1]
        similarity = np.empty(found.shape, np.float32)
        best = np.full((len(found), k), -np.inf, np.float32)
        start, stop = 0, 2 * k
        while start < width:  # each block is twice as wide as the last, but has fewer candidates to compute
            part = slice(start, min(stop, width))
            ids = found[:, part]
            if start and self.slack is not None:
                ids = np.where(scores[:, part] + self.slack >= best[:, :1], ids, -1)
            similarity[:, part] = cosines(self.values, unit, ids, lengths)
            both = np.concatenate([best, similarity[:, part]], axis=1)
            best = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]  # column 0: the k-th best so far
            start, stop = part.stop, 3 * part.stop
        some = np.argpartition(similarity, width - k, axis=1)[:, -k:] if width > k else np.arange(width)[None]
        some = np.broadcast_to(some, (len(found), some.shape[1]))
        near = np.take_along_axis(similarity, some, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        rows = np.take_along_axis(found, np.take_along_axis(some, order, axis=1), axis=1)
        return np.take_along_axis(near, order, axis=1), rows

    def _allowed_lists(
        self, inner_queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_], nprobe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scan lists, the nearest first, until as many allowed rows were scanned as without a filter.

        For far queries (by the first list that contains allowed rows), scan eight times as many.
        """
        lists_in_all = self._ivf.nlist
        in_list = np.bincount(self._list_of_row[allowed], minlength=lists_in_all)
        enough = max(nprobe * self.n / lists_in_all, 2 * k)
        share = max(in_list.sum() / self.n, 1e-9)
        width = int(min(lists_in_all, max(nprobe + 8, 2 * nprobe / share)))
        selector = _selector(allowed)
        n_queries = len(inner_queries)
        found, scores = np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf, np.float32)
        todo = np.arange(n_queries)
        while len(todo):
            at_once, unfinished = max(1, _MAX_QUERIES * 64 // width), []
            for start in range(0, len(todo), at_once):
                which = todo[start : start + at_once]
                part = np.ascontiguousarray(inner_queries[which])
                near, lists = self._ivf.quantizer.search(part, width)
                held = in_list[lists]
                first = near[np.arange(len(part)), np.argmax(held > 0, axis=1)]
                wanted = np.where(first < self._far, _MORE_LISTS * enough, enough)[:, None]
                scanned = np.cumsum(held, axis=1)
                whole = (scanned[:, -1] >= wanted[:, 0]) | (width == lists_in_all)
                lists = np.where((scanned - held < wanted) & (held > 0), lists, -1)
                if whole.any():
                    both = scan(self._scanner, part[whole], k, near[whole], lists[whole], selector)
                    found[which[whole]], scores[which[whole]] = both
                unfinished.append(which[~whole])
            todo, width = np.concatenate(unfinished), min(lists_in_all, 4 * width)
        return found, scores

    def _lengths_for(self, candidates: int) -> NDArray[np.float32] | None:
        """Lengths of all rows, computed once more than n candidates were needed in total."""
        self._n_candidates += candidates
        if self._lengths is None and self._n_candidates > self.n:
            self._lengths = lengths_of(self.values)
        return self._lengths

    @cached_property
    def _scanner(self) -> Any:
        return scanner(self._ivf)

    @cached_property
    def _list_of_row(self) -> NDArray[np.int32]:
        """(n,) the list that contains each row."""
        return list_of_row(self._ivf, self.n)


def _selector(allowed: NDArray[np.bool_]) -> Any:
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def open_index(folder: Path, vectors: VectorStore, device: str = "cpu") -> Index:
    """Open the index of a vector store, memory-mapped, after checking that it matches the vectors.

    Sizes, shapes and about 1 MB of evenly spread pieces of index and vectors are compared with `index.json`: a
    truncated, exchanged or rewritten file is refused. `verify_index` reads every byte.

    Args:
        folder: contains `index.faiss` and `index.json` (stores of the first version have only the former).
        vectors: the store from which it was made.
        device: cpu, or auto: searches without a filter run on a GPU if faiss-gpu and a GPU are available.

    Raises:
        UserError: missing, damaged, truncated, or made from other vectors or in another space.
    """
    record = read_record(folder)
    values = vectors.values
    if record is not None:
        check_vectors(folder, record, values, getattr(vectors, "space", None))
    elif (folder / "index.faiss").is_file() and vectors.spec.get("schema") not in (None, "pellucid.vectors/1"):
        raise UserError(f"{folder / 'index.json'}: is missing; run `pellucid embed` again")
    return Index(read_faiss(folder, record, *values.shape), values, record or {}, device)
