"""`embed FOLDER`, `search IMAGE` and `init` decode in another process: no file ends or stops the command."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pellucid.cohort.draft.header_survey import read_headers
from pellucid.cohort.intake import read_image_apart, sandbox, square_apart, squares_apart
from pellucid.cohort.intake.sandbox import ReaderDied, close_readers, run_apart
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.study import ScanConfig


def photo(path: Path, more: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes() + more)
    return path


@pytest.mark.long
def test_a_process_that_crashes_hangs_or_raises_is_a_reason_and_the_next_order_works() -> None:
    limits = ScanConfig(time_limit_s=0.3)
    with pytest.raises(ReaderDied, match="its decoder crashed or ran out of memory"):
        list(run_apart(limits, os.abort))
    with pytest.raises(ReaderDied, match=r"reading took longer than 0\.3 s \(scan\.time_limit_s\)"):
        list(run_apart(limits, time.sleep, 20))  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        list(run_apart(ScanConfig(memory_limit_gb=0.5), bytearray, 2**31))
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_apart(limits, int, "x"))  # type: ignore[arg-type]
    assert list(run_apart(limits, range, 3)) == [0, 1, 2]


@pytest.mark.long
def test_one_reader_serves_all_files(tmp_path: Path) -> None:
    close_readers()
    for k in range(3):
        photo(tmp_path / f"{k}.png")
        assert [s.reason for s in squares_apart(tmp_path, f"{k}.png", ScanConfig(), 16)] == [""]
    with pytest.raises(UnreadableImage):
        read_image_apart(_written(tmp_path / "no.png", b"nothing"))
    assert square_apart(tmp_path / "0.png", 8).shape == (8, 8, 3)
    assert len(sandbox.idle_readers) == 1


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.long
def test_a_file_that_crashes_its_decoder_costs_only_itself(tmp_path: Path, crashing_reader: None) -> None:
    photo(tmp_path / "good.png")
    photo(tmp_path / "bad.png", b"crash")
    [square] = squares_apart(tmp_path, "bad.png", ScanConfig(), 16)
    assert (square.pixels, square.reason) == (None, "its decoder crashed or ran out of memory")
    [square] = squares_apart(tmp_path, "good.png", ScanConfig(), 16)
    assert square.pixels is not None
    for read in (read_image_apart, lambda path: square_apart(path, 16)):
        with pytest.raises(UnreadableImage, match="its decoder crashed or ran out of memory"):
            read(tmp_path / "bad.png")
    assert read_headers(tmp_path, ["bad.png", "good.png"]).n == 1


@pytest.mark.long
def test_a_pipe_costs_its_time_limit(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    [square] = squares_apart(tmp_path, "a.png", ScanConfig(time_limit_s=0.5), 16)
    assert square.reason == "reading took longer than 0.5 s (scan.time_limit_s)"


@pytest.mark.long
def test_frames_that_are_asked_for(tmp_path: Path) -> None:
    import tifffile

    pages = np.random.default_rng(0).integers(0, 256, (4, 20, 30), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    assert [s.frame for s in squares_apart(tmp_path, "a.tif", ScanConfig(), 16)] == ["0", "1", "2", "3"]
    assert [s.frame for s in squares_apart(tmp_path, "a.tif", ScanConfig(), 16, frames={"1", "3"})] == ["1", "3"]
    assert len(sandbox.idle_readers) >= 1
