"""Chunks and workers: each chunk is computed once, results are byte-identical for any workers, and deaths are
noticed."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import clear_parts
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.extract.chunks import (
    ExtractionJob,
    chunk_bounds,
    claim_and_compute,
    done_chunks,
    holds_chunks_of,
    prepare_chunk_folder,
    read_chunk,
)
from pellucid.embed.extract.image_sources import DecodedPicture
from pellucid.embed.extract.workers import BackboneRequest, Processes, compute_chunks

TINY = "timm-random:test_vit@32"


@dataclass
class Made:
    """A source whose pictures follow from their numbers; some fail, some units hold several."""

    n: int
    failing: tuple[int, ...] = ()
    several: dict[int, int] = field(default_factory=dict)
    deadly: str = ""  # a file; while it is there, unit 5 removes it and ends the process

    @property
    def units(self) -> list[str]:
        return [f"u{k}" for k in range(self.n)]

    def n_pictures(self, unit: int) -> int:
        return self.several.get(unit, 1)

    def content(self, unit: int) -> str:
        return f"c{unit}"

    def pictures(self, unit: int, size_px: int) -> Iterator[DecodedPicture]:
        if self.deadly and unit == 5 and Path(self.deadly).exists():
            import os
            import signal

            Path(self.deadly).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        for k in range(self.n_pictures(unit)):
            pixels = np.random.default_rng([unit, k]).integers(0, 255, (size_px, size_px, 3), dtype=np.uint8)
            yield DecodedPicture(
                f"u{unit}#{k}", f"c{unit}#{k}", None if unit in self.failing else pixels, "no" * (unit in self.failing)
            )


def job_of(folder: Path, source: Made, batch_size: int = 4) -> ExtractionJob:
    prepare_chunk_folder(folder, {"n": source.n})
    units = np.arange(source.n)
    return ExtractionJob(folder, source, units, chunk_bounds(source, units, batch_size), 32, batch_size)


def means(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
    return pixels.reshape(len(pixels), -1)[:, :3].astype(np.float32), None


def run(job: ExtractionJob, encode: object = means, workers: int = 1) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=claim_and_compute, args=(job, encode, stop)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def all_bytes(job: ExtractionJob) -> list[bytes]:
    return [read_chunk(job.folder, part).vectors.tobytes() for part in range(job.n_chunks)]


@given(st.integers(0, 300), st.integers(1, 8), st.dictionaries(st.integers(0, 299), st.integers(1, 200), max_size=5))
def test_parts_cover_every_unit_once(n: int, batch_size: int, several: dict[int, int]) -> None:
    source = Made(n, several=several)
    bounds = chunk_bounds(source, np.arange(n), batch_size)
    assert bounds[0] == 0
    assert bounds[-1] == n
    assert all(a < b for a, b in itertools.pairwise(bounds))
    for a, b in itertools.pairwise(bounds):
        pictures = sum(source.n_pictures(k) for k in range(a, b))
        assert b - a == 1 or pictures <= 8 * batch_size
    assert len(bounds) - 1 >= min(32, n // batch_size), "enough parts that no worker waits long for another's last"


def test_rows_are_those_of_the_source_whoever_decodes(tmp_path: Path) -> None:
    source = Made(90, failing=(3, 40), several={7: 5, 50: 80})
    job = job_of(tmp_path / "one", source)
    run(job)
    want = [s for u in range(90) for s in source.pictures(u, 32)]
    got = [read_chunk(job.folder, p) for p in range(job.n_chunks)]
    assert [i for part in got for i in part.image_ids] == [s.image_id for s in want]
    assert [i for part in got for i in part.contents] == [s.content for s in want]
    vectors = np.concatenate([part.vectors for part in got])
    pixels = np.stack([s.pixels for s in want if s.pixels is not None])
    assert np.array_equal(vectors, means(pixels)[0])
    pooled = job_of(tmp_path / "pooled", source)
    claim_and_compute(pooled, means, threading.Event(), decoders=3)
    assert all_bytes(pooled) == all_bytes(job)


def test_each_part_is_computed_once_by_however_many(tmp_path: Path) -> None:
    job = job_of(tmp_path / "parts", Made(300))
    seen: Counter[bytes] = Counter()

    def counting(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
        seen.update(p.tobytes() for p in pixels)
        return means(pixels)

    run(job, counting, workers=5)
    assert done_chunks(job.folder) == set(range(job.n_chunks))
    assert len(seen) == 300
    assert set(seen.values()) == {1}


def test_padding_changes_no_vector_and_every_batch_has_one_shape(tmp_path: Path) -> None:
    source = Made(21, failing=(2,))
    plain, padded = job_of(tmp_path / "plain", source), job_of(tmp_path / "padded", source)
    shapes = set()

    def noting(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
        shapes.add(pixels.shape)
        return means(pixels)

    run(plain)
    claim_and_compute(
        ExtractionJob(padded.folder, source, padded.units, padded.bounds, 32, 4, pad=True), noting, threading.Event()
    )
    assert shapes == {(4, 32, 32, 3)}
    assert all_bytes(plain) == all_bytes(padded)


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path) -> None:
    job = job_of(tmp_path / "parts", Made(6, failing=(0,)))

    def ill(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        vectors = means(pixels)[0]
        vectors[1:2] = np.nan  # of the second good one in each batch
        return vectors, np.ones((len(pixels), 2, 3), np.float32)

    run(job, ill)
    part = read_chunk(job.folder, 0)
    assert (
        dict(zip(part.image_ids, part.reasons, strict=True))["u2#0"]
        == "the backbone returned a vector with NaN or infinite values"
    )
    assert len(part.vectors) == (part.reasons == "").sum()
    assert part.tokens is not None
    assert part.tokens.shape == (len(part.vectors), 2, 3)


def test_an_error_of_the_network_is_raised_and_what_was_done_is_kept(tmp_path: Path) -> None:
    job = job_of(tmp_path / "parts", Made(100))
    calls = []

    def breaking(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
        calls.append(0)
        if len(calls) > job.n_chunks // 2:  # each part is one batch
            raise RuntimeError("no more")
        return means(pixels)

    with pytest.raises(RuntimeError, match="no more"):
        claim_and_compute(job, breaking, threading.Event())
    assert done_chunks(job.folder) == set(range(job.n_chunks // 2))
    run(job)
    whole = job_of(tmp_path / "whole", Made(100))
    run(whole)
    assert all_bytes(job) == all_bytes(whole)


def test_parts_of_other_work_are_thrown_away(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    job = job_of(folder, Made(10))
    run(job)
    prepare_chunk_folder(folder, {"n": 10})
    assert done_chunks(folder)
    prepare_chunk_folder(folder, {"n": 11})
    assert not done_chunks(folder)
    assert holds_chunks_of(folder, {"n": 11})
    clear_parts(folder)
    run(job)  # a helper that comes late: nothing is left to claim, and nothing is made anew
    assert not folder.exists()


@pytest.mark.long
def test_threads_and_processes_give_the_same_bytes_and_a_death_is_made_good(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = BackboneRequest(TINY, "cpu", ReadoutConfig())
    encoder = request.load()
    (tmp_path / "deadly").touch()
    jobs = {}
    for name, workers, processes in (("one", 1, False), ("two", 2, False), ("apart", 2, True)):
        deadly = str(tmp_path / "deadly") if processes else ""
        jobs[name] = job_of(tmp_path / name, Made(150, failing=(5,), deadly=deadly))
        done: list[int] = []
        compute_chunks(jobs[name], request, encoder, done.append, workers=workers, processes=processes)
        assert sum(done) == 150
    assert all_bytes(jobs["one"]) == all_bytes(jobs["two"]) == all_bytes(jobs["apart"])
    assert "a worker process ended by signal 9 (SIGKILL); the system does this when memory runs out" in (
        capfd.readouterr().err
    )


class Deadly(Made):
    """Ends every process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (7,)


@pytest.mark.slow
def test_workers_that_keep_dying_end_in_a_sentence(tmp_path: Path) -> None:
    job = job_of(tmp_path / "parts", Deadly(100))
    with pytest.raises(
        UserError,
        match=r"4 worker processes in a row ended with exit code 7\. Finished work is kept: .*embed\.workers=1",
    ):
        compute_chunks(
            job,
            BackboneRequest(TINY, "cpu", ReadoutConfig()),
            load_backbone("pixels"),
            lambda *_: None,
            workers=2,
            processes=True,
        )


@pytest.mark.slow
def test_a_worker_says_what_is_wrong_with_its_backbone(tmp_path: Path) -> None:
    crew = Processes(
        job_of(tmp_path / "parts", Made(9)), BackboneRequest("timm-random:nothing", "cpu", ReadoutConfig()), 1
    )
    with pytest.raises(UserError, match="timm has no model `nothing`"):
        while not crew.ended():
            threading.Event().wait(0.05)
    crew.end()
