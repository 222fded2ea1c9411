"""Images like this one, from other patients by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.config import did_you_mean
from cohort.errors import UserError
from cohort.prepared import stretch
from cohort.readers import UnreadableImage, read_image
from embed.backbone import load_backbone
from embed.index import read_index
from embed.neighbours import normalised
from embed.vectors import Vectors


def search(
    vectors: Vectors, query: NDArray[np.float32], k: int = 12, *, exclude_patient: str | None = None
) -> pd.DataFrame:
    """The `k` nearest images to one vector.

    Args:
        vectors: the store to search.
        query: (dim,) float32.
        exclude_patient: research id whose images are passed over.

    Returns:
        Rows with rank, image_id, patient, split and similarity (cosine, 1 is identical), nearest first.
    """
    index = read_index(vectors.folder, len(vectors.images))
    own = 0 if exclude_patient is None else int((vectors.images["patient"] == exclude_patient).sum())
    similarity, found = index.search(normalised(query[None, :].astype(np.float32)), min(k + own, index.ntotal))
    kept = found[0] >= 0
    hits: pd.DataFrame = vectors.images.iloc[found[0][kept]].assign(similarity=similarity[0][kept])
    if exclude_patient is not None:
        hits = hits[hits["patient"] != exclude_patient]
    hits = hits.head(k).reset_index(drop=True)
    hits.insert(0, "rank", np.arange(1, len(hits) + 1))
    return hits


def search_like(vectors: Vectors, image: str, k: int = 12, *, same_patient: bool = False) -> pd.DataFrame:
    """The nearest images to one that is in the store (by its id), or to an image file.

    Raises:
        UserError: neither an id nor a readable file.
    """
    rows = np.flatnonzero(vectors.images["image_id"] == image)
    if len(rows):
        row = int(rows[0])
        patient = None if same_patient else str(vectors.images["patient"].iloc[row])
        hits = search(vectors, np.asarray(vectors.values[row]), k + 1, exclude_patient=patient)
        hits = hits[hits["image_id"] != image].head(k).reset_index(drop=True)
        return hits.assign(rank=np.arange(1, len(hits) + 1))
    path = Path(image)
    if not path.is_file():
        near = did_you_mean(image, vectors.images["image_id"])
        raise UserError(f"`{image}` is neither an image of the store nor a file{near}")
    location = vectors.spec["location"]
    backbone = load_backbone(location if isinstance(location, str) else vectors.name)
    if backbone.fingerprint != vectors.spec["fingerprint"]:
        raise UserError(f"the backbone {location} is not the one that made these vectors: run `pellucid embed` again")
    try:
        pixels = stretch(read_image(path.read_bytes(), min_side_px=backbone.size_px).pixels, backbone.size_px)
    except UnreadableImage as reason:
        raise UserError(f"{path}: {reason}") from None
    return search(vectors, backbone(pixels[None])[0], k)
