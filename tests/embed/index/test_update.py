"""Adding and removing: after any sequence of both the index is that of the vectors there are, and nothing is left of
others."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pellucid.embed.index import build_index, extend_index, open_index
from pellucid.embed.index import kind as kind_module
from pellucid.embed.index.brute_force import exact_search
from pellucid.embed.index.inverted_lists import list_ids
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.training import inner
from pellucid.embed.index.untyped_faiss import faiss
from pellucid.embed.index.update import codes_in_list

Values = NDArray[np.float32]
LISTS = ("ivf-sq8", "ivf-pq")


@dataclass
class Store:
    values: Values
    spec: dict[str, Any] = field(default_factory=dict)
    space: str | None = "here"


def clustered(n: int, dim: int, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(0).normal(size=(30, dim))
    return (centres[rng.integers(0, 30, n)] + rng.normal(size=(n, dim))).astype(np.float32)


def changed(values: Values, gone: float, new: int, seed: int) -> tuple[Values, NDArray[np.int64]]:
    """The vectors with a share removed and some added, in another order, and each one's earlier row."""
    rng = np.random.default_rng(seed)
    keep = np.flatnonzero(rng.random(len(values)) >= gone)
    both = np.concatenate([values[keep], clustered(new, values.shape[1], seed + 1)])
    order = rng.permutation(len(both))
    return both[order], np.concatenate([keep, np.full(new, -1)])[order]


def codes_by_row(folder: Path) -> dict[int, bytes]:
    ivf = inner(faiss.read_index(str(folder / "index.faiss")))
    found = {}
    for number in range(ivf.nlist):
        ids = list_ids(ivf.invlists, number)
        found |= {row: code.tobytes() for row, code in zip(ids.tolist(), codes_in_list(ivf, number), strict=True)}
    return found


def found_share(folder: Path, values: Values) -> float:
    index = open_index(folder, Store(values))
    queries = clustered(200, values.shape[1], 99)
    truth = exact_search(values, normalised(queries), 10)[0]
    similarity, rows = index.search(queries, 10)
    assert ((rows >= 0) & (rows < len(values))).all()
    return float((similarity >= truth[:, -1:] - 1e-6).mean())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["auto", *LISTS])
@given(steps=st.lists(st.tuples(st.sampled_from([0.0, 0.02, 0.3]), st.integers(0, 300)), min_size=1, max_size=3))
@settings(max_examples=3, deadline=None)
def test_any_sequence_of_changes_is_as_good_as_a_fresh_build(kind: str, steps: list[tuple[float, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        values, folder = clustered(1400, 16, 1), Path(name)
        build_index(folder, values, "here", kind=kind)
        for number, (gone, new) in enumerate(steps):
            values, old_rows = changed(values, gone, new, number)
            later = Path(name) / str(number)
            later.mkdir()
            record = extend_index(folder, later, values, "here", old_rows, kind=kind)
            assert record["n"] == len(values)
            folder = later
            share = found_share(folder, values)
            assert share == 1.0 if kind == "auto" else share >= 0.95
            if kind in LISTS and record["kind"] == kind:
                index = faiss.read_index(str(folder / "index.faiss"))
                held = [list_ids(inner(index).invlists, i) for i in range(inner(index).nlist)]
                assert sorted(np.concatenate(held).tolist()) == list(range(len(values))), (
                    "each row once, none that is gone"
                )
                assert index.ntotal == inner(index).ntotal == len(values)


@pytest.mark.long
@pytest.mark.parametrize("kind", LISTS)
def test_codes_that_stay_are_moved_not_made_anew_and_those_of_the_gone_vanish(kind: str, tmp_path: Path) -> None:
    values = clustered(1500, 32, 1)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    build_index(old, values, "here", kind=kind)
    before = codes_by_row(old)  # of 32 or 8 bytes: none stands in the file by chance
    bytes_before = (old / "index.faiss").read_bytes()
    gone = np.arange(700, 706)
    keep = np.setdiff1d(np.arange(1500), gone)
    record = extend_index(old, new, values[keep], "here", keep, kind=kind)
    assert record["carried_over"] == 1494
    assert (old / "index.faiss").read_bytes() == bytes_before, "the earlier store is only read"
    after, written = codes_by_row(new), (new / "index.faiss").read_bytes()
    same = np.mean([after[i] == before[int(row)] for i, row in enumerate(keep)])
    assert same > 0.6, "most lists lose nothing"
    kept_codes = {before[int(row)] for row in keep}
    for row in gone.tolist():
        assert before[row] in bytes_before
        assert before[row] not in written or before[row] in kept_codes
        assert normalised(values[row : row + 1]).tobytes() not in written


@pytest.mark.long
@pytest.mark.parametrize("kind", LISTS)
def test_the_centre_of_a_list_forgets_who_is_gone(kind: str, tmp_path: Path) -> None:
    """A list of one vector has that vector for its centre: a code that is gone must not live on there."""
    values = clustered(1500, 16, 1)
    build_index(tmp_path, values, "here", kind=kind)
    ivf = inner(faiss.read_index(str(tmp_path / "index.faiss")))
    number = int(np.argmin([ivf.invlists.list_size(i) or 9999 for i in range(ivf.nlist)]))
    old_centre = ivf.quantizer.reconstruct(number)
    gone = list_ids(ivf.invlists, number)
    keep = np.setdiff1d(np.arange(1500), gone)
    extend_index(tmp_path, tmp_path, values[keep], "here", keep, kind=kind)
    index = faiss.read_index(str(tmp_path / "index.faiss"))
    centres = inner(index).quantizer.reconstruct_n(0, inner(index).nlist)
    assert old_centre.tobytes() not in (tmp_path / "index.faiss").read_bytes()
    assert not np.allclose(centres[number], old_centre, atol=1e-3)
    some = int(np.flatnonzero([inner(index).invlists.list_size(i) for i in range(inner(index).nlist)])[0])
    assert np.linalg.norm(centres[some]) == pytest.approx(1, abs=1e-3)
    assert found_share(tmp_path, values[keep]) >= 0.95


def test_a_flat_index_holds_no_bytes_of_the_gone(tmp_path: Path) -> None:
    values = clustered(300, 16, 1)
    build_index(tmp_path, values, "here")
    keep = np.delete(np.arange(300), [7, 8])
    gone = normalised(values[7:9])
    assert gone[0].tobytes() in (tmp_path / "index.faiss").read_bytes()
    extend_index(tmp_path, tmp_path, values[keep], "here", keep)
    written = (tmp_path / "index.faiss").read_bytes()
    assert all(row.tobytes() not in written for row in gone)
    assert found_share(tmp_path, values[keep]) == 1.0


@pytest.mark.long
def test_lists_are_learned_anew_when_most_has_changed(tmp_path: Path) -> None:
    values = clustered(1200, 16, 1)
    build_index(tmp_path, values, "here", kind="ivf-sq8")
    more = np.concatenate([values, clustered(1300, 16, 5)])
    old_rows = np.concatenate([np.arange(1200), np.full(1300, -1)])
    record = extend_index(tmp_path, tmp_path, more, "here", old_rows, kind="ivf-sq8")
    assert record["trained_on"] == 2500, "more than doubled"
    assert "carried_over" not in record
    few = extend_index(tmp_path, tmp_path, more[:1100], "here", np.arange(1100), kind="ivf-sq8")
    assert few["trained_on"] == 1100, "less than half is left"
    other = extend_index(tmp_path, tmp_path, more[:1100], "there", np.arange(1100), kind="ivf-sq8")
    assert "carried_over" not in other, "another space"
    (tmp_path / "index.faiss").write_bytes(b"broken")
    mended = extend_index(tmp_path, tmp_path, more[:1100], "there", np.arange(1100), kind="ivf-sq8")
    assert "carried_over" not in mended, "what is damaged is made anew"
    assert found_share(tmp_path, more[:1100]) >= 0.95 if mended["space"] == "here" else True


@pytest.mark.long
def test_recall_that_falls_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand new images that are nearly one: lists and codes made for others do not tell them apart."""
    monkeypatch.setattr(kind_module, "EXACT_UP_TO", 1000)
    values = clustered(1400, 16, 1)
    first = build_index(tmp_path, values, "here", memory_gb=1)
    assert first["kind"] == "ivf-pq"
    corner = (values[0] + 0.05 * np.random.default_rng(0).normal(size=(1000, 16))).astype(np.float32)
    both = np.concatenate([values, corner])
    old_rows = np.r_[np.arange(1400), np.full(1000, -1)]
    record = extend_index(tmp_path, tmp_path, both, "here", old_rows, memory_gb=1)
    assert record["recall_reached"]
    index = open_index(tmp_path, Store(both))
    truth = exact_search(both, normalised(corner[:100]), 20)[0]
    assert (index.search(corner[:100], 20)[0] >= truth[:, -1:] - 1e-6).mean() >= 0.93, "the hardest of all queries"


def test_rows_that_are_not_what_they_are_said_to_be_are_refused(tmp_path: Path) -> None:
    values = clustered(1200, 16, 1)
    build_index(tmp_path, values, "here", kind="ivf-sq8")
    with pytest.raises(ValueError, match="none twice"):
        extend_index(tmp_path, tmp_path, values[:2], "here", np.array([3, 3]), kind="ivf-sq8")
    with pytest.raises(ValueError, match="the earlier store has 1200"):
        extend_index(tmp_path, tmp_path, values, "here", np.arange(1, 1201), kind="ivf-sq8")
    with pytest.raises(ValueError, match="differ from those of the earlier store"):
        extend_index(tmp_path, tmp_path, values[::-1].copy(), "here", np.arange(1200), kind="ivf-sq8")
