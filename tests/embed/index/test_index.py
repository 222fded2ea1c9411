"""The search index against brute force: each kind, with and without filters, opened from disk; damage is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pellucid.cohort.config import validate
from pellucid.cohort.errors import UserError
from pellucid.embed.index import (
    Index,
    IndexConfig,
    build_index,
    choose_kind,
    index_sentence,
    open_index,
    recall_tuning,
    search_elsewhere,
    verify_index,
)
from pellucid.embed.index import kind as kind_module
from pellucid.embed.index.brute_force import exact_search
from pellucid.embed.index.kind import coded_dimensions
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.novelty import cohort_distances, percentile
from pellucid.embed.index.training import inner
from pellucid.embed.store.vectors import load_vectors

ARCHIVE = Path(__file__).parents[1] / "archive"
KINDS = ("exact", "ivf-sq8", "ivf-pq")
Values = NDArray[np.float32]


@dataclass
class Store:
    """What `open_index` asks of a vector store."""

    values: Values
    spec: dict[str, Any] = field(default_factory=dict)
    space: str | None = "here"


def clustered(n: int, dim: int = 16, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(0).normal(size=(40, dim))
    return (centres[rng.integers(0, 40, n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Values]]:
    """One index of each kind over the same 4,000 vectors. Read only."""
    values = clustered(4000)
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        np.save(folder / "vectors.npy", values)
        build_index(folder, values, "here", kind=kind, patients=np.arange(4000) // 4)
        found[kind] = folder, np.load(folder / "vectors.npy", mmap_mode="r")
    return found


def recall(index: Index, queries: Values, k: int, allowed: NDArray[np.bool_] | None = None) -> float:
    rows = None if allowed is None else np.flatnonzero(allowed)
    truth = exact_search(index.values, normalised(queries), k, rows)[0]
    similarity, found = index.search(queries, k, allowed)
    assert allowed is None or allowed[found[found >= 0]].all()
    return float((similarity >= truth[:, -1:] - 1e-6).mean())


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.booleans())
@settings(max_examples=40, deadline=None)
def test_exact_search_is_brute_force(n: int, dim: int, k: int, some: bool) -> None:
    rng = np.random.default_rng(n + 100 * dim)
    values = rng.normal(size=(n, dim)).astype(np.float32)
    rows = np.sort(rng.choice(n, max(1, n // 2), replace=False)).astype(np.int64) if some else None
    queries = normalised(rng.normal(size=(3, dim)).astype(np.float32))
    similarity, found = exact_search(values, queries, k, rows)
    cosines = queries @ normalised(values).T
    among = np.arange(n) if rows is None else rows
    for q in range(3):
        order = among[np.argsort(-cosines[q][among], kind="stable")][:k]
        assert np.allclose(similarity[q][: len(order)], cosines[q][order], atol=1e-6)
        assert set(found[q][: len(order)].tolist()) <= set(among.tolist())
        assert (found[q][len(order) :] == -1).all()
        assert np.isneginf(similarity[q][len(order) :]).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_measured_is_what_a_search_finds(kind: str, made: dict[str, tuple[Path, Values]]) -> None:
    folder, values = made[kind]
    index = open_index(folder, Store(values))
    assert index.kind == kind
    assert index.record["recall_reached"]
    unseen = clustered(300, seed=7)
    assert recall(index, unseen, 20) >= 0.96
    elsewhere = np.random.default_rng(3).normal(size=(300, 16)).astype(np.float32)
    assert recall(index, elsewhere, 20) >= 0.96, "images unlike all others are looked for in more lists"
    assert index.record["recall_at_20"] >= 0.98
    similarity, found = index.search(values[:50], 5)
    assert (found[:, 0] == np.arange(50)).all(), "a vector is nearest to itself"
    exact = np.einsum("qd,qkd->qk", normalised(values[:50]), normalised(values[found.ravel()]).reshape(50, 5, -1))
    assert np.allclose(similarity, exact, atol=1e-6), "similarities are exact, whatever the codes"
    assert (np.diff(similarity, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.003])
def test_recall_does_not_fall_under_a_filter(kind: str, share: float, made: dict[str, tuple[Path, Values]]) -> None:
    folder, values = made[kind]
    index = open_index(folder, Store(values))
    allowed = np.random.default_rng(1).random(len(values)) < share
    queries = clustered(200, seed=8)
    assert recall(index, queries, 10, allowed) == 1.0, "so few are all looked at"
    index.exact_allowed = 0
    assert recall(index, queries, 10, allowed) >= 0.97


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-pq"])
def test_a_filter_against_everything_near_still_finds_the_nearest_allowed(
    kind: str, made: dict[str, tuple[Path, Values]]
) -> None:
    """The hard case for lists: what is allowed lies far from the query, and the lists near it hold nothing."""
    folder, values = made[kind]
    index = open_index(folder, Store(values))
    index.exact_allowed = 0
    unit = normalised(values)
    allowed = unit @ unit[0] < 0.2
    assert recall(index, values[:1], 20, allowed) >= 0.95
    similarity, rows = index.search(values[:1], 20, np.arange(len(values)) == 3)
    assert rows[0].tolist() == [3] + [-1] * 19
    assert np.isneginf(similarity[0, 1:]).all()
    assert (index.search(values[:1], 3, np.zeros(len(values), bool))[1] == -1).all()


def test_more_may_be_asked_for_than_there_is(made: dict[str, tuple[Path, Values]]) -> None:
    folder, values = made["ivf-sq8"]
    rows = open_index(folder, Store(values)).search(values[:2], len(values) + 5)[1]
    assert sorted(rows[0][:-5].tolist()) == list(range(len(values)))
    assert (rows[0][-5:] == -1).all()
    with pytest.raises(ValueError, match=r"\(m, 16\) is needed"):
        open_index(folder, Store(values)).search(values[:2, :3], 3)
    with pytest.raises(ValueError, match="NaN or infinite"):
        open_index(folder, Store(values)).search(np.full((1, 16), np.nan, np.float32), 3)


@pytest.mark.long
def test_codes_in_fewer_directions_and_the_early_end_lose_nothing(tmp_path: Path) -> None:
    values = clustered(6000, 144, 7)
    record = build_index(tmp_path, values, None, kind="ivf-pq")
    index = open_index(tmp_path, Store(values))
    assert inner(index.faiss).d == 96 == coded_dimensions(144)
    assert record["recall_reached"]
    queries = values[::40] + 0.1
    truth = exact_search(values, normalised(queries), 20)[0]
    found = index.search(queries, 20)
    assert (found[0] >= truth[:, -1:] - 1e-6).mean() >= 0.97
    index.slack = None  # every candidate gets its exact cosine
    whole = index.search(queries, 20)
    assert (whole[1] == found[1]).mean() >= 0.995
    assert np.allclose(found[0], np.einsum("qd,qkd->qk", normalised(queries), normalised(values)[found[1]]), atol=1e-5)


def test_kinds_by_size_memory_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, lists in ((0, "ivf-pq"), (1, "ivf-sq8")):
        monkeypatch.setattr(kind_module, "n_gpus", lambda gpus=gpus: gpus)
        assert choose_kind(100_000, 384) == "exact"
        assert choose_kind(100_001, 384, memory_gb=1) == lists
        assert choose_kind(50_000, 384, memory_gb=0.03) == lists
        assert choose_kind(1_000_000, 384, memory_gb=0.2) == "ivf-pq"
    assert choose_kind(200, 384, "ivf-pq") == "exact", "nothing to learn lists from"
    config = validate(IndexConfig, {"kind": "ivf-pq", "recall": 0.9, "memory_gb": 2}, "study.yaml: embed.index")
    assert config.memory_gb == 2
    with pytest.raises(UserError, match=r"unknown key `recal`; did you mean `recall`"):
        validate(IndexConfig, {"recal": 0.9}, "study.yaml")
    with pytest.raises(UserError, match="`recall` is 98"):
        validate(IndexConfig, {"recall": 98}, "study.yaml")


@pytest.mark.long
def test_a_recall_that_cannot_be_had_gives_an_exact_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_module, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(recall_tuning, "FACTORS", {"ivf-sq8": (1,), "ivf-pq": (1,)})
    values = np.random.default_rng(0).normal(size=(1500, 24)).astype(np.float32)
    values[:, 0] *= 10_000  # codes are no use for what is left
    record = build_index(tmp_path, values, None, 1.0, memory_gb=1)
    assert record["kind"] == "exact"
    assert "ivf-pq found only" in index_sentence(record)
    forced = build_index(tmp_path, values, None, 1.0, kind="ivf-sq8")
    assert not forced["recall_reached"]
    assert "less than the 100.0% required: set embed.index.kind=exact" in index_sentence(forced)


def test_the_record_says_how(made: dict[str, tuple[Path, Values]]) -> None:
    record = json.loads((made["ivf-sq8"][0] / "index.json").read_text())
    assert record["schema"] == "pellucid.index/1"
    assert {"kind", "space", "n", "dim", "nprobe", "factor", "recall_at_20", "build_s", "bytes", "sha256"} <= set(
        record
    )
    said = index_sentence(record)
    assert "inverted lists of 8-bit codes" in said
    assert f"finds {record['recall_at_20']:.1%}" in said
    assert index_sentence(json.loads((made["exact"][0] / "index.json").read_text())).startswith(
        "exact search of all 4,000"
    )


def copied(made: dict[str, tuple[Path, Values]], kind: str, to: Path) -> Path:
    return Path(shutil.copytree(made[kind][0], to / kind))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_at_opening(kind: str, made: dict[str, tuple[Path, Values]], tmp_path: Path) -> None:
    folder = copied(made, kind, tmp_path)
    values, path = np.load(folder / "vectors.npy"), folder / "index.faiss"
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"index\.faiss: is truncated"):
            open_index(folder, Store(values))
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match=r"index\.faiss: has the wrong size"):
        open_index(folder, Store(values))
    path.write_bytes(whole[:-40] + bytes(40))
    with pytest.raises(UserError, match=r"index\.faiss: does not match its checksum in index\.json"):
        open_index(folder, Store(values))
    path.write_bytes(whole)
    other = values.copy()
    other[[5, 6]] = other[[6, 5]]
    with pytest.raises(UserError, match=r"was made from other vectors than those in vectors\.npy"):
        open_index(folder, Store(other))
    with pytest.raises(UserError, match=r"from 4000 vectors of 16 dimensions, but vectors\.npy has 3999"):
        open_index(folder, Store(values[1:]))
    with pytest.raises(UserError, match=r"another backbone, pooling or preprocessing \(space here\).*\(space there\)"):
        open_index(folder, Store(values, space="there"))
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json: is damaged"):
        open_index(folder, Store(values))
    (folder / "index.json").write_text('{"schema": "pellucid.index/9"}')
    with pytest.raises(UserError, match=r"schema 'pellucid\.index/9'; this version reads pellucid\.index/1"):
        open_index(folder, Store(values))
    path.unlink()
    (folder / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.faiss: is missing"):
        open_index(folder, Store(values))


def test_an_index_of_another_run_of_the_same_size_is_refused(
    made: dict[str, tuple[Path, Values]], tmp_path: Path
) -> None:
    folder = copied(made, "exact", tmp_path)
    other = clustered(4000, seed=9)
    build_index(tmp_path, other, "here", kind="exact")
    assert (tmp_path / "index.faiss").stat().st_size == (folder / "index.faiss").stat().st_size
    shutil.copy(tmp_path / "index.faiss", folder / "index.faiss")
    with pytest.raises(UserError, match=r"does not match its checksum in index\.json"):
        open_index(folder, Store(np.load(folder / "vectors.npy")))


def test_verify_reads_every_byte(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30_000, 16)).astype(np.float32)  # 1.9 MB: more than is looked at
    build_index(tmp_path, values, "here")
    assert verify_index(tmp_path, values) == []
    data = bytearray((tmp_path / "index.faiss").read_bytes())
    seen = {round((len(data) - 16_384) * i / 63) for i in range(64)}
    blind = next(at for at in range(20_000, len(data)) if not any(s <= at < s + 16_384 for s in seen))
    data[blind] ^= 1
    (tmp_path / "index.faiss").write_bytes(data)
    open_index(tmp_path, Store(values))  # one flipped bit between the places that are looked at
    assert verify_index(tmp_path, values) == [f"{tmp_path / 'index.faiss'}: was changed after it was written"]
    changed = values.copy()
    changed[17, 3] += 1
    assert f"{tmp_path / 'vectors.npy'}: is not the file from which the index was made" in verify_index(
        tmp_path, changed
    )


def test_stores_of_the_first_version_still_open(tmp_path: Path) -> None:
    for folder in sorted(ARCHIVE.glob("vectors-1")):
        vectors = load_vectors(folder)
        index = open_index(folder, vectors)
        similarity, rows = index.search(np.asarray(vectors.values), 1)
        assert (rows[:, 0] == np.arange(index.n)).all()
        assert np.allclose(similarity, 1, atol=1e-5)
    values = clustered(50)
    flat = faiss.IndexFlatIP(16)
    flat.add(values[:40])
    faiss.write_index(flat, str(tmp_path / "index.faiss"))
    with pytest.raises(UserError, match=r"contains 40 vectors, but vectors\.npy has 50"):
        open_index(tmp_path, Store(values))
    (tmp_path / "index.faiss").write_bytes(b"IxFI")
    with pytest.raises(UserError, match=r"index\.faiss: is damaged"):
        open_index(tmp_path, Store(values))
    with pytest.raises(UserError, match=r"index\.json: is missing"):
        open_index(tmp_path, Store(values, {"schema": "pellucid.vectors/2"}))


@pytest.mark.long
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 15), st.booleans(), st.booleans(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_nearest_elsewhere_is_brute_force(
    n: int, n_groups: int, k: int, one_each: bool, filtered: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 6)).astype(np.float32)
    groups = rng.integers(0, n_groups, n)
    allowed = rng.random(n) < 0.6 if filtered else None
    queries, own = values[:5], np.where(rng.random(min(5, n)) < 0.8, groups[:5], -1)
    flat = faiss.IndexFlatIP(6)
    flat.add(normalised(values))
    similarity, rows = search_elsewhere(Index(flat, values, {}), queries, k, groups, own, allowed, one_each=one_each)
    cosines = normalised(queries) @ normalised(values).T
    for q in range(len(queries)):
        expected: list[int] = []
        for row in np.argsort(-cosines[q], kind="stable").tolist():
            fresh = not one_each or groups[row] not in groups[expected]
            if groups[row] != own[q] and (allowed is None or allowed[row]) and fresh and len(expected) < k:
                expected.append(row)
        assert rows[q][rows[q] >= 0].tolist() == expected
        assert np.allclose(similarity[q][: len(expected)], cosines[q][expected], atol=1e-5)


def test_neighbours_are_found_behind_a_crowd_of_one_patient() -> None:
    rng = np.random.default_rng(0)
    crowd = np.ones((500, 4)) + 0.01 * rng.normal(size=(500, 4))
    values = np.vstack([crowd, rng.normal(size=(5, 4))]).astype(np.float32)
    groups = np.array([0] + [1] * 499 + [2, 3, 4, 5, 6])
    flat = faiss.IndexFlatIP(4)
    flat.add(normalised(values))
    rows = search_elsewhere(Index(flat, values, {}), values[:1], 4, groups, np.array([0]), one_each=True)[1][0]
    assert groups[rows[0]] == 1
    assert len(set(groups[rows])) == 4
    rows = search_elsewhere(Index(flat, values, {}), values[5:6], 5, groups, np.array([1]))[1][0]
    assert sorted(groups[rows].tolist()) != [1] * 5
    assert 1 not in groups[rows]


def test_unusual_is_told_against_other_patients() -> None:
    """Every patient's images are copies of one another: only the distance to *others* can tell how unusual one is."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=(200, 8)) + 4
    values = np.repeat(people, 15, axis=0).astype(np.float32)
    flat = faiss.IndexFlatIP(8)
    flat.add(normalised(values))
    index = Index(flat, values, {})
    record = cohort_distances(index, np.repeat(np.arange(200), 15))
    assert record["patients"] == 200
    assert record["images"] == 1000
    assert record["quantiles"][0] > 1e-4, "one's own copies are at distance 0 and do not count"
    middle, far = percentile(np.array([record["quantiles"][100], 1.5]), record)
    assert middle == pytest.approx(50)
    assert far == 100
    assert np.isnan(percentile(np.array([0.1]), cohort_distances(index, np.zeros(3000)))).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["exact", "ivf-sq8"])
def test_a_gpu_finds_the_same(kind: str, made: dict[str, tuple[Path, Values]]) -> None:
    folder, values = made[kind]
    cpu, gpu = open_index(folder, Store(values)), open_index(folder, Store(values), device="auto")
    a, b = cpu.search(values[:200], 10), gpu.search(values[:200], 10)
    assert np.allclose(a[0], b[0], atol=1e-4)
    assert (a[1] == b[1]).mean() > 0.98
