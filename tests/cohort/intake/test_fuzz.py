"""Files as an old archive holds them — flipped bits, cut ends, swapped heads, absurd dimensions: each ends as a row."""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from pellucid.cohort.intake import child_process, sandbox
from pellucid.cohort.intake.child_process import ChildProcess
from pellucid.cohort.intake.sandbox import close_readers, read_files
from pellucid.cohort.scan import scan
from pellucid.cohort.study import ScanConfig, load_study

_DICOM = (
    "CT_small.dcm",
    "JPEG2000.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "emri_small.dcm",
    "image_dfl.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
)


def good_files() -> dict[str, bytes]:
    """A small sound file of each kind, by name."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
    picture = Image.fromarray(pixels)
    files = {}
    for ending, options in (
        ("jpg", {"quality": 90, "exif": _exif()}),
        ("png", {}),
        ("webp", {}),
        ("bmp", {}),
        ("gif", {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("tif", {"compression": "tiff_lzw"}),
    ):
        sink = io.BytesIO()
        picture.save(sink, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)
        files[f"picture.{ending}"] = sink.getvalue()
    sink = io.BytesIO()
    tifffile.imwrite(sink, (pixels[:, :, 0].astype(np.uint16) << 4)[None].repeat(4, axis=0), photometric="minisblack")
    files["stack.tiff"] = sink.getvalue()
    sink = io.BytesIO()
    picture.convert("CMYK").save(sink, "JPEG")
    files["cmyk.jpg"] = sink.getvalue()
    for name in _DICOM:
        path = get_testdata_file(name, download=False)
        if path:
            files[name] = Path(path).read_bytes()
    return files


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    return exif.tobytes()


def mutated(n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` files of every kind of damage, each under a name of its own; the same for the same seed."""
    rng = np.random.default_rng(seed)
    good = good_files()
    names = sorted(good)
    for number in range(n):
        name = names[number % len(names)]
        damage = _DAMAGES[number // len(names) % len(_DAMAGES)]
        other = good[names[int(rng.integers(len(names)))]]
        stem, _, ending = name.rpartition(".")
        if damage is _wrong_ending:
            ending = names[int(rng.integers(len(names)))].rpartition(".")[2]
        yield f"{number:04d}_{damage.__name__[1:]}_{stem}.{ending}", damage(good[name], other, rng)


def _flipped_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    where = rng.integers(0, len(changed), max(1, int(10 ** rng.uniform(0, 2.5))))
    changed[where] ^= (1 << rng.integers(0, 8, len(where))).astype(np.uint8)
    return changed.tobytes()


def _flipped_head(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    where = rng.integers(0, min(len(changed), 512), int(rng.integers(1, 20)))
    changed[where] = rng.integers(0, 256, len(where))
    return changed.tobytes()


def _cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _swapped_head(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    length = int(rng.integers(4, 200))
    return other[:length] + data[length:]


def _wrong_ending(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data


def _zeroed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, len(data)))
    length = int(rng.integers(1, len(data)))
    return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]


def _stuttered(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 4096))
    return data[: start + length] + data[start : start + length] * int(rng.integers(1, 8)) + data[start + length :]


def _absurd_dimensions(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The header promises up to billions of pixels, or none, or fewer than none."""
    side = int(rng.choice([0, 1, 65535, 60000, 2**31 - 1, 2**32 - 1]))
    if data[:3] == b"\xff\xd8\xff":
        for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
            at = data.find(marker)
            if at > 0:
                return data[: at + 5] + struct.pack(">HH", side & 0xFFFF, side & 0xFFFF) + data[at + 9 :]
    if data[:4] == b"\x89PNG":
        head = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<II", side, side) + data[26:]
    if data[:4] == b"GIF8":
        return data[:6] + struct.pack("<HH", side & 0xFFFF, side & 0xFFFF) + data[10:]
    if data[:4] == b"RIFF":
        return data[:24] + struct.pack("<I", side) + data[28:]
    if data[:2] in {b"II", b"MM"}:
        order = "<" if data[:2] == b"II" else ">"
        changed = bytearray(data)
        for tag in (256, 257, 258, 277):
            at = data.find(struct.pack(order + "HH", tag, 4))
            at = at if at >= 0 else data.find(struct.pack(order + "HH", tag, 3))
            if at >= 0:
                changed[at + 8 : at + 12] = struct.pack(order + "I", side)
        return bytes(changed)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    dataset.Rows = dataset.Columns = side & 0xFFFF
    if rng.random() < 0.5:
        dataset.NumberOfFrames = int(rng.choice([0, 10**6, 2**31 - 1]))
    sink = io.BytesIO()
    dataset.save_as(sink)
    return sink.getvalue()


_DAMAGES = (
    _flipped_bits,
    _cut,
    _swapped_head,
    _absurd_dimensions,
    _wrong_ending,
    _flipped_head,
    _zeroed,
    _stuttered,
)


def scan_mutated(folder: Path, n: int, seed: int) -> pd.DataFrame:
    """The manifest of a scan of `n` damaged files."""
    (folder / "files").mkdir()
    for name, data in mutated(n, seed):
        (folder / "files" / name).write_bytes(data)
    (folder / "study.yaml").write_text("images: files\npatient: none\n", encoding="utf-8")
    settings = ["scan.max_unreadable=1", "scan.time_limit_s=10", "scan.memory_limit_gb=3", "scan.shard_images=100"]
    run = scan(load_study(folder, settings), progress=False)
    return pd.read_parquet(run.path / "manifest.parquet")


def check(manifest: pd.DataFrame, n: int) -> None:
    assert manifest["file"].nunique() == n, "every file ends as a row"
    bad = manifest["status"] != "ok"
    assert (bad | manifest["reason"].eq("")).all()
    assert manifest.loc[bad, "reason"].str.len().gt(10).all(), "with a reason where it is not readable"
    assert 0.2 < bad.mean() < 0.9
    usable = manifest[~bad]
    wrong_name = usable[usable["file"].str.contains("wrong_ending")]
    assert len(wrong_name) > n / 20, "what a file is called plays no part"
    assert usable[["width", "height"]].gt(0).all().all()
    assert usable["phenotype_brightness"].between(0, 100).all()
    close_readers()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3 * 2**20, "KiB, of the largest reader"


@pytest.mark.long
def test_300_mutated_files(tmp_path: Path) -> None:
    check(scan_mutated(tmp_path, 300, seed=1), 300)


@pytest.mark.slow
def test_2000_mutated_files(tmp_path: Path) -> None:
    check(scan_mutated(tmp_path, 2000, seed=2), 2000)


def photo(folder: Path, name: str) -> None:
    assert cv2.imwrite(str(folder / name), np.full((60, 80, 3), 90, np.uint8))


@pytest.mark.long
def test_a_file_that_hangs_costs_a_row(tmp_path: Path) -> None:
    photo(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")  # opening it waits for a writer who never comes
    photo(tmp_path, "c.png")
    rows = [row for row, _ in read_files(tmp_path, ["a.png", "b.png", "c.png"], ScanConfig(time_limit_s=3))]
    assert [row["status"] for row in rows] == ["ok", "unreadable", "ok"]
    assert rows[1]["reason"] == "reading took longer than 3 s (scan.time_limit_s)"


@pytest.mark.long
def test_a_decoder_that_crashes_costs_a_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.png")
    photo(tmp_path, "c.png")
    close_readers()
    started: list[ChildProcess] = []
    begin = sandbox.start_reader

    def crash() -> None:
        while not started or started[0].child.poll() is not None:
            time.sleep(0.05)
        time.sleep(0.3)
        started[0].child.send_signal(signal.SIGSEGV)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "start_reader", lambda: started.append(begin()) or started[-1])  # type: ignore[func-returns-value]
        thread = threading.Thread(target=crash)
        thread.start()
        rows = [row for row, _ in read_files(tmp_path, ["b.png", "c.png"], ScanConfig(time_limit_s=30))]
        thread.join()
    assert [row["status"] for row in rows] == ["unreadable", "ok"]
    assert rows[0]["reason"] == "its decoder crashed or ran out of memory"
    assert len(started) == 2


@pytest.mark.long
def test_a_picture_beyond_the_memory_allowed_costs_a_row(tmp_path: Path) -> None:
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "big.png")  # 432 MB once decoded, 0.4 MB as a file
    photo(tmp_path, "c.png")
    rows = [row for row, _ in read_files(tmp_path, ["big.png", "c.png"], ScanConfig(memory_limit_gb=0.9))]
    assert [row["status"] for row in rows] == ["unreadable", "ok"]
    assert "memory" in rows[0]["reason"]


@pytest.mark.long
def test_a_reader_that_died_while_it_waited_is_no_fault_of_the_next_file(tmp_path: Path) -> None:
    photo(tmp_path, "a.png")
    list(read_files(tmp_path, ["a.png"], ScanConfig()))
    for process in sandbox.idle_readers:
        process.child.kill()
        process.child.wait()
    rows = [row for row, _ in read_files(tmp_path, ["a.png"], ScanConfig())]
    assert [row["status"] for row in rows] == ["ok"]


@pytest.mark.parametrize("limit_gb", [0.35, 0.45, 0.6])
def test_running_out_of_memory_anywhere_costs_a_row(tmp_path: Path, limit_gb: float) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    rows = [row for row, _ in read_files(tmp_path, ["a.jpg"], ScanConfig(memory_limit_gb=limit_gb))]
    assert len(rows) == 1
    assert rows[0]["status"] == "ok" or "memory" in rows[0]["reason"]


def test_a_fault_of_ours_is_raised_not_hidden(tmp_path: Path) -> None:
    photo(tmp_path, "a.png")
    with pytest.raises(TypeError) as caught:
        list(read_files(tmp_path, ["a.png"], ScanConfig().model_copy(update={"size_px": None})))
    assert "while reading a.png" in caught.value.__notes__


@pytest.mark.long
def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path, "a.png")
    for module in ("cohort", "copy", "numpy"):
        (tmp_path / f"{module}.py").write_text("from pathlib import Path\nPath('ran').touch()\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    close_readers()
    rows = [row for row, _ in read_files(tmp_path, ["a.png"], ScanConfig())]
    assert rows[0]["status"] == "ok"
    assert not (tmp_path / "ran").exists()


def test_an_installation_that_does_not_start_is_no_fault_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path, "a.png")
    close_readers()
    monkeypatch.setattr(child_process, "START_CODE", "raise ImportError('no such decoder')")
    with pytest.raises(RuntimeError, match="did not start: ImportError: no such decoder"):
        list(read_files(tmp_path, ["a.png"], ScanConfig()))
