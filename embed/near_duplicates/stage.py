"""`near`: the same picture under two patients, turned, mirrored or cropped, and the most unusual images, from the vectors.

The scan's hashes find copies that were re-encoded or resized (`pellucid.cohort.duplicates.duplicate_groups`); a picture that was turned or cropped has
another hash. Its vector is still close. So candidates come from the index, and each is verified on the pictures themselves.

Candidates are taken in the order of how much nearer the other image is than the image's usual neighbours: the distance of the pair
over the mean distance of the image to its ten nearest images of other patients (the lower of both directions). That
ratio knows no backbone: the cosines of an MAE lie near 1, those of others do not. Pairs are verified from the most suspicious
downwards until `patience` in a row show different pictures; where that was is the threshold, and it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from pellucid.cohort.config import Config
from pellucid.cohort.duplicates import Groups
from pellucid.cohort.images import Pixels
from pellucid.cohort.runs import RunFolder, atomic_path, begin_run, write_json
from pellucid.cohort.study import Study
from pellucid.embed.index import Index, open_index
from pellucid.embed.index.novelty import mean_of_found, percentile
from pellucid.embed.index.other_patients import codes_of, search_elsewhere
from pellucid.embed.near_duplicates.picture_match import Match, same_picture
from pellucid.embed.store.vectors import Vectors, load_vectors

SCHEMA = "pellucid.near/1"
NEIGHBOURS = 10
OUTLIERS = 50
_QUERIES = 4_096
_VERSION = 2

Picture = Callable[[str], Pixels]


class NearConfig(Config):
    """The `near:` section of study.yaml."""

    patience: int = Field(300, ge=1)  # pairs in a row that show different pictures: there the search for more ends
    most_pairs: int = Field(5_000, ge=1)  # verified at most, whatever they show: about 0.1 s each


@dataclass(frozen=True)
class Near:
    """What was found.

    Attributes:
        pairs: verified pairs: image_id, other, patient, other_patient, split, other_split, similarity, ratio, agreement, how,
            group; the most alike first.
        unusual: the most unusual images: image_id, patient, split, distance, percentile, times_usual (over the median distance); the most
            unusual first.
        verified: how many pairs were looked at.
        ratio: the ratio of the last pair that was looked at.
        capped: whether pairs were left that nobody looked at, because `most_pairs` were.
    """

    pairs: pd.DataFrame
    unusual: pd.DataFrame
    verified: int
    ratio: float
    capped: bool


def find_near(
    vectors: Vectors,
    picture: Picture,
    *,
    known: NDArray[np.object_] | None = None,
    index: Index | None = None,
    patience: int = 300,
    most_pairs: int = 5_000,
) -> Near:
    """Look for the same picture under different patients, and for images unlike all others.

    Args:
        vectors: of the images.
        picture: an image by its id, (H, W, 3) uint8.
        known: (n,) the scan's duplicate group of each image, "" for none: pairs within a group are known already.
        patience: pairs in a row that show different pictures after which the search for more ends.
        most_pairs: verified at most, whatever they show.
    """
    index = index or open_index(vectors.folder, vectors, device="auto")
    groups = codes_of(vectors.images["patient"])
    pairs, distance = _candidates(index, groups, most_pairs, known)
    ids = vectors.images["image_id"].astype(str).to_numpy(dtype=object)
    found: list[dict[str, Any]] = []
    looked, in_vain, ratio = 0, 0, 0.0
    for row, other, similarity, pair_ratio in pairs:
        if in_vain >= patience or looked >= most_pairs:
            break
        looked, ratio = looked + 1, pair_ratio
        match = same_picture(picture(ids[row]), picture(ids[other]))
        in_vain = 0 if match is not None else in_vain + 1
        if match is not None:
            found.append(_pair(vectors.images, row, other, similarity, pair_ratio, match))
    capped = looked >= most_pairs and len(pairs) > looked
    return Near(_grouped(found), _unusual(vectors, index, distance), looked, ratio, capped)


def _candidates(
    index: Index, groups: NDArray[np.int64], most: int, known: NDArray[np.object_] | None
) -> tuple[list[tuple[int, int, float, float]], NDArray[np.float64]]:
    """(row, other, similarity, ratio) with row < other, each pair once, lowest ratio first; and each row's distance."""
    distance = np.full(index.n, np.nan)
    best: pd.DataFrame | None = None
    for start in range(0, index.n, _QUERIES):
        rows = np.arange(start, min(start + _QUERIES, index.n))
        similarity, others = search_elsewhere(index, np.asarray(index.values[rows]), NEIGHBOURS, groups, groups[rows])
        distance[rows] = mean_of_found(similarity, others)
        mine, place = np.nonzero(others >= 0)
        other, alike = others[mine, place], similarity[mine, place].astype(np.float64)
        row = rows[mine]
        # The mean of the *other* places: a copy must not be held against a mean that it has itself drawn down.
        count = (others >= 0).sum(axis=1)[mine]
        rest = (distance[row] * count - (1 - alike)) / np.maximum(count - 1, 1)
        frame = pd.DataFrame(
            {
                "row": np.minimum(row, other),
                "other": np.maximum(row, other),
                "similarity": alike,
                "ratio": np.clip(1 - alike, 0, None) / np.maximum(np.where(count > 1, rest, 1.0), 1e-9),
            }
        )
        if known is not None:
            same = (known[frame["row"]] != "") & (known[frame["row"]] == known[frame["other"]])
            frame = frame[~same]
        both = frame if best is None else pd.concat([best, frame])
        both = both.sort_values(["ratio", "row", "other"], kind="stable").drop_duplicates(["row", "other"])
        best = both.head(4 * most + 1)  # later blocks may bring more suspicious ones; nothing holds all pairs
    listed = [] if best is None else list(best.itertuples(index=False, name=None))
    return [(int(a), int(b), float(s), float(r)) for a, b, s, r in listed], distance


def _pair(images: pd.DataFrame, row: int, other: int, similarity: float, ratio: float, match: Match) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for prefix, i in (("", row), ("other_", other)):
        for name in ("image_id", "patient", "split"):
            found[prefix + name] = str(images[name].iloc[i])
        found[prefix + "row"] = i
    return found | {"similarity": similarity, "ratio": ratio, "agreement": match.agreement, "how": match.how}


_COLUMNS = [
    "group", "image_id", "other_image_id", "patient", "other_patient", "split", "other_split", "similarity", "ratio",
    "agreement", "how",
]  # fmt: skip


def _grouped(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Pairs with the group that they belong to: N0001 and so on, a chain of pairs being one group."""
    if not found:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in _COLUMNS})
    frame = pd.DataFrame(found)
    rows = np.unique(frame[["row", "other_row"]].to_numpy())
    groups = Groups(len(rows))
    places = np.searchsorted(rows, frame[["row", "other_row"]].to_numpy())
    for a, b in places.tolist():
        groups.join(a, b)
    roots = groups.roots()[places[:, 0]]
    number = {root: i for i, root in enumerate(dict.fromkeys(roots.tolist()), start=1)}
    frame["group"] = [f"N{number[root]:04d}" for root in roots.tolist()]
    return frame[_COLUMNS]


def _unusual(vectors: Vectors, index: Index, distance: NDArray[np.float64]) -> pd.DataFrame:
    worst = np.argsort(-np.nan_to_num(distance, nan=-1), kind="stable")[:OUTLIERS]
    worst = worst[~np.isnan(distance[worst])]
    frame = vectors.images[["image_id", "patient", "split"]].iloc[worst].reset_index(drop=True)
    record = {"quantiles": np.nanquantile(distance, np.linspace(0, 1, 201)).tolist()} if len(worst) else {}
    usual = float(np.nanmedian(distance)) if len(worst) else 1.0
    frame = frame.assign(distance=distance[worst], percentile=percentile(distance[worst], record))
    return frame.assign(
        times_usual=distance[worst] / max(usual, 1e-9)
    )  # a cosine alone says little: those of MAE lie near 1


def near_sentences(found: Near) -> list[str]:
    """What must be looked at, in sentences by research id."""
    pairs = found.pairs
    said = []
    if len(pairs):
        first = pairs.iloc[0]
        said.append(
            f"{len(pairs)} pair(s) of images in {pairs['group'].nunique()} group(s) show the same picture under different "
            f"patients though their hashes differ ({_ways(pairs)}; the first: {first['patient']} and "
            f"{first['other_patient']}): one of them has the wrong patient, or two ids are one person. Look at them."
        )
        torn = pairs[pairs["split"] != pairs["other_split"]]
        if len(torn):
            said.append(
                f"{len(torn)} of these pairs lie on both sides of the split: what is tested there was seen in training. "
                "Give both the same patient id in the table, or remove the copy, and scan again."
            )
    else:
        said.append("no picture was found under two patients beyond what the hashes of the scan tell")
    said.append(
        f"{found.verified} pair(s) of similar images were compared picture by picture, down to "
        f"{found.ratio:.2f} times the usual distance"
        + ("; more were left: raise near.most_pairs to look at them" if found.capped else "")
    )
    if len(found.unusual):
        said.append(
            f"the {len(found.unusual)} image(s) farthest from all images of other patients are listed: look at them"
        )
    return said


def _ways(pairs: pd.DataFrame) -> str:
    return ", ".join(f"{n} {how}" for how, n in pairs["how"].value_counts().items())


def near(study: Study, vectors_run: RunFolder, scan: RunFolder, *, progress: bool = True) -> RunFolder:
    """Near duplicates and outliers of a study as a run of its own, made from vectors and scan.

    Returns:
        The run, with `near.parquet` (pairs), `unusual.parquet` and `near.json` (sentences by research id).
    """
    from pellucid.cohort.images import PreparedImages
    from pellucid.cohort.progress import track

    chosen = study.section("near", NearConfig)
    config = {"version": _VERSION, "neighbours": NEIGHBOURS, **chosen.model_dump()}
    with begin_run(study.analysis, "near", vectors_run.name, config, [vectors_run, scan]) as run:
        if run.done:
            return run
        vectors = load_vectors(vectors_run.path)
        manifest = pd.read_parquet(scan.path / "manifest.parquet").set_index("image_id")
        rows = manifest.reindex(vectors.images["image_id"])
        known = rows["duplicate_group"].fillna("").to_numpy(dtype=object) if "duplicate_group" in rows else None
        prepared = PreparedImages.open(scan.path, vectors.images["image_id"].tolist())
        place = {image_id: i for i, image_id in enumerate(prepared.image_ids)}
        shown = [0]  # pictures; two are a pair
        with track("comparing similar images", chosen.most_pairs, "pairs", progress) as advance:

            def picture(image_id: str) -> Pixels:
                shown[0] += 1
                if shown[0] % 2 == 0:
                    advance(1)
                return prepared.decode(place[image_id])

            found = find_near(vectors, picture, known=known, **chosen.model_dump())
        for name, frame in (("near", found.pairs), ("unusual", found.unusual)):
            with atomic_path(run.path / f"{name}.parquet") as temporary:
                frame.to_parquet(temporary, index=False)
        content = {
            "schema": SCHEMA,
            "backbone": vectors.name,
            "pairs": len(found.pairs),
            "groups": int(found.pairs["group"].nunique()),
            "across_splits": int((found.pairs["split"] != found.pairs["other_split"]).sum()),
            "verified": found.verified,
            "ratio": found.ratio,
            "capped": found.capped,
            "to_look_at": _shown(found.pairs),
            "sentences": near_sentences(found),
        }
        write_json(run.path / "near.json", content)
    return run


def _shown(pairs: pd.DataFrame, most: int = 50) -> list[dict[str, Any]]:
    """By research id only: what reports may show."""
    columns: Sequence[str] = [c for c in _COLUMNS if not c.endswith("image_id")]
    return [
        {str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in pairs[list(columns)].head(most).to_dict("records")
    ]
