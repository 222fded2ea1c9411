"""Reuse vectors of an earlier store in the same space, for images with the same content.

The hash of the bytes from which a vector was computed decides (`DecodedPicture.content`), not the name of the file: a
file that was changed under the same name is computed again; a renamed file is not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import finished_runs
from pellucid.embed.extract.image_sources import ImageSource
from pellucid.embed.store.vectors import Vectors, load_vectors, read_spec

COLUMNS = ("unit", "image_id", "content", "old_row")


def earlier_stores(analysis: Path, space: str, precision: str = "auto", tokens: bool = False) -> list[Vectors]:
    """Finished embed runs of a study whose vectors can be reused together with new ones, the newest first."""
    found = []
    for run in finished_runs(analysis, "embed"):
        try:
            if read_spec(run.path).get("space") != space:  # not worth opening
                continue
            vectors = load_vectors(run.path)
        except UserError:  # damaged, or an unsupported version: nothing to reuse
            continue
        if is_usable(vectors, space, precision, tokens):
            found.append(vectors)
    return found[::-1]


def is_usable(vectors: Vectors, space: str, precision: str = "auto", tokens: bool = False) -> bool:
    """Whether the vectors equal those that would be computed now, and record the content they were computed from.

    Args:
        precision: the number type in which they must have been computed; auto: any (new vectors then use the same).
        tokens: whether patch tokens are needed.
    """
    spec = vectors.spec
    if tokens and vectors.tokens is None:
        return False
    return spec.get("space") == space and precision in {"auto", spec.get("computed_in")} and "content" in vectors.images


def contents(source: ImageSource, threads: int) -> list[str]:
    """The content hash of every unit."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(source.content, range(len(source.units)), chunksize=64))


def reusable_rows(
    source: ImageSource, now: list[str], earlier: Vectors, pictures: dict[str, list[str]] | None = None
) -> pd.DataFrame:
    """The rows of the earlier store that are still valid.

    Args:
        now: content of each unit.
        pictures: for each unit, the image_ids that are needed; None: all that the unit had before.

    Returns:
        A row for each picture: `unit`, `image_id`, `content` and `old_row`. A unit is reused completely or not at all.
    """
    content = earlier.images["content"].astype(str)
    base = content.str.partition("#")[0]
    failed = {str(f.get("content", "")).partition("#")[0] for f in earlier.spec.get("failed", [])}
    usable = ~base.isin(failed) & (base != "")
    frames = content.str.partition("#")[2]
    old = pd.DataFrame({"base": base, "frame": frames, "old_row": np.arange(len(base))})[usable.to_numpy()]
    # Files with the same content have the same vectors: keep one of them.
    old = old.drop_duplicates(["base", "frame"])
    units = pd.DataFrame({"unit": np.arange(len(now)), "base": now})
    both = units[units["base"] != ""].merge(old, on="base", how="inner").sort_values(["unit", "old_row"])
    names = pd.Series(list(source.units), dtype=object)
    file = both["unit"].map(names)
    both["image_id"] = file.where(both["frame"] == "", file + "#" + both["frame"])
    both["content"] = both["base"].where(both["frame"] == "", both["base"] + "#" + both["frame"])
    withdrawn = getattr(source, "withdrawn", None)
    if withdrawn is not None and len(both):  # the frames may come from another file with the same content
        both = both[~withdrawn.which(both["image_id"].tolist())]
    if pictures is not None:
        pairs = [(unit, image_id) for unit, name in enumerate(source.units) for image_id in pictures[name]]
        wanted = pd.DataFrame(pairs, columns=["unit", "image_id"])
        both = wanted.merge(both, on=["unit", "image_id"], how="left")
        whole = both["old_row"].notna().groupby(both["unit"]).transform("all")
        both = both[whole]
    return both[list(COLUMNS)].astype({"unit": np.int64, "old_row": np.int64}).reset_index(drop=True)


def each_once(old_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace repeated rows by −1: an index entry can move to one new row only."""
    once = np.full(len(old_rows), -1, np.int64)
    rows, first = np.unique(old_rows, return_index=True)
    once[first] = rows
    return once
