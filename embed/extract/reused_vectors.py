"""Vectors of an earlier store in the same space are taken over for images whose content is the same.

What counts is the hash of the bytes that a vector was made from (`Seen.content`), never the name of a file: a file whose
content has changed under its old name is computed anew, one that was only renamed is not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import finished_runs
from pellucid.embed.extract.image_sources import Source
from pellucid.embed.store.vectors import Vectors, load_vectors

COLUMNS = ("unit", "image_id", "content", "old_row")


def earlier_stores(analysis: Path, space: str, precision: str = "auto", tokens: bool = False) -> list[Vectors]:
    """Finished embed runs of a study whose vectors may stand beside new ones, the newest first."""
    found = []
    for run in finished_runs(analysis, "embed"):
        try:
            vectors = load_vectors(run.path)
        except UserError:  # damaged, or of a version that is not read any more: nothing to take over
            continue
        if is_usable(vectors, space, precision, tokens):
            found.append(vectors)
    return found[::-1]


def is_usable(vectors: Vectors, space: str, precision: str = "auto", tokens: bool = False) -> bool:
    """Whether its vectors are those that would be computed now, and say what they were made from.

    Args:
        precision: the number type that they must have been computed in; auto: any, and what is added is computed as they were.
    """
    said = vectors.spec
    if tokens and vectors.tokens is None:
        return False
    return said.get("space") == space and precision in {"auto", said.get("computed_in")} and "content" in vectors.images


def contents(source: Source, threads: int) -> list[str]:
    """The content hash of every unit."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(source.content, range(len(source.units)), chunksize=64))


def taken_over(
    source: Source, now: list[str], earlier: Vectors, pictures: dict[str, list[str]] | None = None
) -> pd.DataFrame:
    """The rows of the earlier store that serve again.

    Args:
        now: content of each unit.
        pictures: of each unit the image_ids that are wanted; None: whatever the unit held before.

    Returns:
        A row for each picture: `unit`, `image_id`, `content` and `old_row`. A unit is taken over whole or not at all.
    """
    content = earlier.images["content"].astype(str)
    base = content.str.partition("#")[0]
    failed = {str(f.get("content", "")).partition("#")[0] for f in earlier.spec.get("failed", [])}
    usable = ~base.isin(failed) & (base != "")
    frames = content.str.partition("#")[2]
    old = pd.DataFrame({"base": base, "frame": frames, "old_row": np.arange(len(base))})[usable.to_numpy()]
    # Of files with the same content each gives the same vectors: one of them stands for all.
    old = old.drop_duplicates(["base", "frame"])
    units = pd.DataFrame({"unit": np.arange(len(now)), "base": now})
    both = units[units["base"] != ""].merge(old, on="base", how="inner").sort_values(["unit", "old_row"])
    names = pd.Series(list(source.units), dtype=object)
    file = both["unit"].map(names)
    both["image_id"] = file.where(both["frame"] == "", file + "#" + both["frame"])
    both["content"] = both["base"].where(both["frame"] == "", both["base"] + "#" + both["frame"])
    withdrawn = getattr(source, "withdrawn", None)
    if withdrawn is not None and len(both):  # another file of the same content may have lent its frames
        both = both[~withdrawn.which(both["image_id"].tolist())]
    if pictures is not None:
        pairs = [(unit, image_id) for unit, name in enumerate(source.units) for image_id in pictures[name]]
        wanted = pd.DataFrame(pairs, columns=["unit", "image_id"])
        both = wanted.merge(both, on=["unit", "image_id"], how="left")
        whole = both["old_row"].notna().groupby(both["unit"]).transform("all")
        both = both[whole]
    return both[list(COLUMNS)].astype({"unit": np.int64, "old_row": np.int64}).reset_index(drop=True)


def each_once(old_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same with −1 wherever a row has been named before: an index entry can move to one place only."""
    once = np.full(len(old_rows), -1, np.int64)
    rows, first = np.unique(old_rows, return_index=True)
    once[first] = rows
    return once
