"""Vectors for the TensorBoard embedding projector: a folder with vectors, columns, small pictures and a
configuration."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.embed.export.parquet import blocks, plain
from pellucid.embed.export.selection import Chosen

SPRITE_PX = 8192  # side of the largest sprite image that the projector supports
_TILE_PX = 64
_SMALLEST_TILE_PX = 16
_HIDDEN = 96  # grey value for pictures that must not be shown


def write_projector(chosen: Chosen, folder: Path, *, pictures: bool = True) -> list[str]:
    """Write `vectors.bytes` (float32, row by row), `metadata.tsv`, `sprite.png` and `projector_config.pbtxt`.

    Args:
        chosen: vectors and columns to export.
        folder: an empty folder.
        pictures: include small pictures if the study has prepared copies; those with burned-in text are left grey.

    Returns:
        Remarks on the content.
    """
    values = chosen.vectors.values
    n, dim = values.shape
    with (folder / "vectors.bytes").open("wb") as handle:
        for rows in blocks(n):
            handle.write(np.ascontiguousarray(values[rows], dtype="<f4").tobytes())
    frame = plain(chosen.frame)
    if chosen.xy is not None:
        frame = frame.assign(x=chosen.xy[:, 0], y=chosen.xy[:, 1])
    _write_metadata(frame, folder / "metadata.tsv")
    remarks = []
    tile = min(_TILE_PX, SPRITE_PX // math.ceil(math.sqrt(max(1, n))))
    config = [
        "embeddings {",
        f'  tensor_name: "{_quoted(chosen.vectors.name)}"',
        '  tensor_path: "vectors.bytes"',
        f"  tensor_shape: {n}",
        f"  tensor_shape: {dim}",
        '  metadata_path: "metadata.tsv"',
    ]
    if not pictures or chosen.pictures is None:
        remarks.append("without pictures")
    elif tile < _SMALLEST_TILE_PX:
        most = (SPRITE_PX // _SMALLEST_TILE_PX) ** 2
        remarks.append(f"without pictures: the projector can show pictures of {most:,} images at most")
    else:
        sprite, hidden = _sprite(chosen, tile)
        cv2.imwrite(str(folder / "sprite.png"), cv2.cvtColor(sprite, cv2.COLOR_RGB2BGR))
        config += ["  sprite {", '    image_path: "sprite.png"', f"    single_image_dim: {tile}"]
        config += [f"    single_image_dim: {tile}", "  }"]
        if hidden:
            remarks.append(f"{hidden} picture(s) with signs of text or a face are left grey")
    (folder / "projector_config.pbtxt").write_text("\n".join([*config, "}", ""]), encoding="utf-8")
    if n > 100_000:
        remarks.append("a browser can show about 100,000 points")
    return remarks


def _write_metadata(frame: pd.DataFrame, path: Path) -> None:
    """Write tab-separated text with a header; the format has no quoting, so tabs and line ends become spaces."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write("\t".join(_cell(name) for name in frame.columns) + "\n")
        for rows in blocks(len(frame)):
            for row in frame.iloc[rows].itertuples(index=False, name=None):
                handle.write("\t".join("" if pd.isna(value) else _cell(value) for value in row) + "\n")


def _cell(value: object) -> str:
    return " ".join(str(value).split())


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _sprite(chosen: Chosen, tile: int) -> tuple[NDArray[np.uint8], int]:
    """(side, side, 3) uint8 RGB with the pictures row by row, and the number of those left grey."""
    assert chosen.pictures is not None
    n = len(chosen.frame)
    columns = math.ceil(math.sqrt(n))
    sprite = np.zeros((columns * tile, columns * tile, 3), np.uint8)
    hidden = 0
    for i in range(n):
        y, x = (tile * j for j in divmod(i, columns))
        if chosen.shown is None or chosen.shown[i]:
            sprite[y : y + tile, x : x + tile] = chosen.pictures.square(i, tile)
        else:
            sprite[y : y + tile, x : x + tile] = _HIDDEN
            hidden += 1
    return sprite, hidden
