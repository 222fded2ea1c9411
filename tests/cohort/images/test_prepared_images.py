"""Prepared copies: each has a checksum, so that a flipped bit in a shard never becomes another image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages, shard_path, write_shard

IDS = ["a.png", "b.png", "c.dcm#12"]
IMAGES = [bytes(np.random.default_rng(i).integers(0, 256, 300 + i, dtype=np.uint8)) for i in range(3)]


def opened(folder: Path) -> PreparedImages:
    return PreparedImages(folder, [(0, 2), (0, 0), (0, 1)], [IDS[2], IDS[0], IDS[1]])


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = shard_path(tmp_path, 0)
    path.parent.mkdir()
    write_shard(path, IDS, IMAGES)
    return path


def test_round_trip(shard: Path) -> None:
    prepared = opened(shard.parents[1])
    assert [prepared.encoded(i) for i in range(3)] == [IMAGES[2], IMAGES[0], IMAGES[1]]


def test_no_flipped_bit_gives_another_image(shard: Path) -> None:
    """Bits of padding and of unused metadata change nothing; every other flip is named with its file."""
    whole = shard.read_bytes()
    draw = np.random.default_rng(0)
    first = whole.index(IMAGES[0])
    places = [8 * first, 8 * (whole.index(IMAGES[2]) + len(IMAGES[2])) - 1, *draw.integers(0, 8 * len(whole), 400)]
    named = 0
    for place in map(int, places):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        shard.unlink()  # an earlier reader has mapped it
        shard.write_bytes(changed)
        prepared, said = opened(shard.parents[1]), ""
        try:
            assert [prepared.encoded(i) for i in range(3)] == [IMAGES[2], IMAGES[0], IMAGES[1]], place
        except UserError as error:
            said = str(error)
            named += 1
        assert not said or said.startswith(f"{shard}: the prepared copy of `"), place
    assert named > 100


def test_a_manifest_that_points_to_another_image_is_refused(shard: Path) -> None:
    prepared = PreparedImages(shard.parents[1], [(0, 0), (0, 7)], [IDS[1], IDS[0]])
    for i in range(2):
        with pytest.raises(UserError, match=r"the prepared copy of `..png` is damaged"):
            prepared.encoded(i)


def test_shards_of_the_first_version_have_no_checksum_and_are_read(shard: Path) -> None:
    schema = pa.schema(
        [("image_id", pa.string()), ("image", pa.binary())], metadata={b"schema": b"pellucid.prepared/1"}
    )
    batch = pa.record_batch([pa.array(IDS, pa.string()), pa.array(IMAGES, pa.binary())], schema=schema)
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    assert opened(shard.parents[1]).encoded(1) == IMAGES[0]
