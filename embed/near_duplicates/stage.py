"""Stage `near`: from the vectors, find the same picture under two patients (rotated, mirrored or cropped), and
outliers.

The hashes of the scan find re-encoded and resized copies (`pellucid.cohort.duplicates.duplicate_groups`). A rotated or
cropped picture has another hash, but still a similar vector. Candidates therefore come from the index, and each is
verified on the pictures.

Candidates are ordered by a ratio: the distance of the pair divided by the mean distance of the image to its ten nearest
images of other patients (the smaller ratio of both directions). The ratio does not depend on the scale of a backbone;
the cosines of an MAE, for example, are all near 1. Pairs are compared in this order until `patience` pairs in a row
show different pictures; the ratio reached is reported as the threshold.

Pictures of standardised anatomy are alike without being copies. A pair is a copy only if its details agree far more
than those of other pairs of different patients do; pairs in between are questions
(`pellucid.cohort.duplicates.CopyLimits`).
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
from pellucid.cohort.duplicates import MIN_QUESTION, CopyLimits, StarGroups, copy_limits
from pellucid.cohort.images import Pixels
from pellucid.cohort.runs import RunFolder, atomic_path, begin_run, write_json
from pellucid.cohort.study import Study
from pellucid.embed.index import Index, open_index
from pellucid.embed.index.novelty import mean_of_found, percentile
from pellucid.embed.index.other_patients import codes_of, search_elsewhere
from pellucid.embed.near_duplicates.picture_match import Match, related
from pellucid.embed.store.vectors import Vectors, load_vectors

SCHEMA = "pellucid.near/1"
NEIGHBOURS = 10
OUTLIERS = 50
_MAX_QUERIES = 4_096  # searched at once
_VERSION = 3
_NULL_PAIRS = 150  # compared for the limits, about 0.1 s each, if any pair is alike

Picture = Callable[[str], Pixels]


class NearConfig(Config):
    """The `near:` section of study.yaml."""

    patience: int = Field(300, ge=1)  # stop after this many different pairs in a row
    most_pairs: int = Field(5_000, ge=1)  # verify at most this many pairs; about 0.1 s each


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs and outliers.

    Attributes:
        pairs: copies, the most similar first: group, image_id, other_image_id, patient, other_patient, split,
            other_split, similarity, ratio, agreement, how.
        questions: pairs that may or may not be copies, with the same columns except group.
        limits: from which agreement on a pair is a copy or a question.
        unusual: the most unusual images first: image_id, patient, split, distance, percentile, times_usual (distance
            divided by the median distance).
        verified: number of pairs compared.
        ratio: ratio of the last pair compared.
        capped: whether pairs remained when `most_pairs` had been compared.
    """

    pairs: pd.DataFrame
    questions: pd.DataFrame
    limits: CopyLimits
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
) -> NearDuplicates:
    """Find the same picture under different patients, and outliers.

    Args:
        vectors: of the images.
        picture: image_id → (H, W, 3) uint8 RGB.
        known: (n,) duplicate group of each image in the scan, "" for none: pairs within a group are skipped.
        index: the index of the store, if already open.
        patience: stop after this many different pairs in a row.
        most_pairs: verify at most this many pairs.
    """
    index = index or open_index(vectors.folder, vectors, device="auto")
    groups = codes_of(vectors.images["patient"])
    pairs, distance = _candidates(index, groups, most_pairs, known)
    ids = vectors.images["image_id"].astype(str).to_numpy(dtype=object)
    found: list[dict[str, Any]] = []
    limits: CopyLimits | None = None
    verified, misses, ratio = 0, 0, 0.0
    for row, other, similarity, pair_ratio in pairs:
        if misses >= patience or verified >= most_pairs:
            break
        verified, ratio = verified + 1, pair_ratio
        match = related(picture(ids[row]), picture(ids[other]))
        verdict = "different"
        if match is not None and match.agreement >= MIN_QUESTION:
            limits = limits or copy_limits(_null(index, groups, known, ids, picture), index.n)
            verdict = limits.verdict(match.agreement)
        misses = 0 if verdict == "copy" else misses + 1
        if match is not None and verdict != "different":
            found.append(_pair(vectors.images, row, other, similarity, pair_ratio, match) | {"verdict": verdict})
    capped = verified >= most_pairs and len(pairs) > verified
    copies, questions = ([pair for pair in found if pair["verdict"] == kind] for kind in ("copy", "question"))
    return NearDuplicates(
        _grouped(copies),
        pd.DataFrame(questions, columns=_COLUMNS[1:]),
        limits or copy_limits([], index.n),
        _unusual(vectors, index, distance),
        verified,
        ratio,
        capped,
    )


def _null(
    index: Index,
    groups: NDArray[np.int64],
    known: NDArray[np.object_] | None,
    ids: NDArray[np.object_],
    picture: Picture,
) -> list[float]:
    """Agreements of images at random with the nearest image of their second nearest patient.

    The nearest patient is left out: if there is a copy, it is there. Pairs that cannot be registered are no standard of
    comparison for those that can.
    """
    rows = np.sort(np.random.default_rng(0).permutation(index.n)[:_NULL_PAIRS])
    _, others = search_elsewhere(index, np.asarray(index.values[rows]), NEIGHBOURS, groups, groups[rows])
    agreements = []
    for row, near_rows in zip(rows.tolist(), others.tolist(), strict=True):
        there = [other for other in near_rows if other >= 0]
        further = [other for other in there if groups[other] != groups[there[0]]]
        if known is not None and known[row] != "":
            further = [other for other in further if known[other] != known[row]]
        match = related(picture(ids[row]), picture(ids[further[0]])) if further else None
        if match is not None:
            agreements.append(match.agreement)
    return agreements


def _candidates(
    index: Index, groups: NDArray[np.int64], most: int, known: NDArray[np.object_] | None
) -> tuple[list[tuple[int, int, float, float]], NDArray[np.float64]]:
    """(row, other, similarity, ratio) with row < other, each pair once, lowest ratio first; and the distance of each
    row."""
    distance = np.full(index.n, np.nan)
    best: pd.DataFrame | None = None
    for start in range(0, index.n, _MAX_QUERIES):
        rows = np.arange(start, min(start + _MAX_QUERIES, index.n))
        similarity, others = search_elsewhere(index, np.asarray(index.values[rows]), NEIGHBOURS, groups, groups[rows])
        distance[rows] = mean_of_found(similarity, others)
        query, place = np.nonzero(others >= 0)
        other, cosine = others[query, place], similarity[query, place].astype(np.float64)
        row = rows[query]
        # The mean over the *other* neighbours, so that a copy does not lower the mean with which it is compared.
        count = (others >= 0).sum(axis=1)[query]
        rest = (distance[row] * count - (1 - cosine)) / np.maximum(count - 1, 1)
        frame = pd.DataFrame(
            {
                "row": np.minimum(row, other),
                "other": np.maximum(row, other),
                "similarity": cosine,
                "ratio": np.clip(1 - cosine, 0, None) / np.maximum(np.where(count > 1, rest, 1.0), 1e-9),
            }
        )
        if known is not None:
            same = (known[frame["row"]] != "") & (known[frame["row"]] == known[frame["other"]])
            frame = frame[~same]
        both = frame if best is None else pd.concat([best, frame])
        both = both.sort_values(["ratio", "row", "other"], kind="stable").drop_duplicates(["row", "other"])
        best = both.head(4 * most + 1)  # bounded memory; later blocks may have lower ratios
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
    """Add the group of each pair, N0001 and so on: a copied image and its copies, the pairs most in agreement first.

    A pair of two images that are copies of different images is a group by itself; there are no chains.
    """
    if not found:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in _COLUMNS})
    frame = pd.DataFrame(found)
    rows = list(zip(frame["row"].tolist(), frame["other_row"].tolist(), strict=True))
    copies = set(rows)
    stars = StarGroups(lambda i, j: (min(i, j), max(i, j)) in copies)
    order = np.argsort(-frame["agreement"].to_numpy(), kind="stable").tolist()
    fits = {place: stars.join(*rows[place]) for place in order}
    names = [("star", stars.first(pair[0])) if fits[place] else ("alone", place) for place, pair in enumerate(rows)]
    number = {name: i for i, name in enumerate(dict.fromkeys(names), start=1)}
    frame["group"] = [f"N{number[name]:04d}" for name in names]
    return frame[_COLUMNS]


def _unusual(vectors: Vectors, index: Index, distance: NDArray[np.float64]) -> pd.DataFrame:
    worst = np.argsort(-np.nan_to_num(distance, nan=-1), kind="stable")[:OUTLIERS]
    worst = worst[~np.isnan(distance[worst])]
    frame = vectors.images[["image_id", "patient", "split"]].iloc[worst].reset_index(drop=True)
    record = {"quantiles": np.nanquantile(distance, np.linspace(0, 1, 201)).tolist()} if len(worst) else {}
    usual = float(np.nanmedian(distance)) if len(worst) else 1.0
    frame = frame.assign(distance=distance[worst], percentile=percentile(distance[worst], record))
    # A cosine alone is hard to interpret: those of an MAE are all near 1.
    return frame.assign(times_usual=distance[worst] / max(usual, 1e-9))


def near_sentences(found: NearDuplicates) -> list[str]:
    """The findings as sentences; patients are named by research id."""
    pairs = found.pairs
    sentences = []
    if len(pairs):
        first = pairs.iloc[0]
        sentences.append(
            f"{len(pairs)} pair(s) of images in {pairs['group'].nunique()} group(s) show the same picture under "
            f"different patients although their hashes differ ({_count_by_kind(pairs)}; the first: {first['patient']} "
            f"and {first['other_patient']}). Please check whether an image was stored twice or two ids are one person."
        )
        leaking = pairs[pairs["split"] != pairs["other_split"]]
        if len(leaking):
            sentences.append(
                f"{len(leaking)} of these pairs have images in different splits: test images were seen in training. "
                "Give both images the same patient id in the table, or remove the copy, and scan again."
            )
    else:
        sentences.append(
            "no further picture was found under two patients, beyond those found by the hashes of the scan"
        )
    if len(found.questions):
        first = found.questions.iloc[0]
        sentences.append(
            f"{len(found.questions)} pair(s) are very alike, but not clearly copies (the first: {first['patient']} and "
            f"{first['other_patient']}; `questions.parquet` lists them). Are they the same picture?"
        )
    sentences.append(
        f"{found.verified} pair(s) of similar images were compared as pictures, up to a ratio of "
        f"{found.ratio:.2f} to the usual distance"
        + _limit_words(found.limits)
        + ("; more pairs remained: increase near.most_pairs to compare them" if found.capped else "")
    )
    if len(found.unusual):
        sentences.append(
            f"the {len(found.unusual)} image(s) farthest from all images of other patients are listed: please check "
            "them"
        )
    return sentences


def _limit_words(limits: CopyLimits) -> str:
    if not limits.n_null:
        return f"; copies agree by at least {limits.copy:.2f}"
    return (
        f"; copies agree by at least {limits.copy:.2f}, because {limits.n_null} pairs of different patients agree by "
        f"{limits.usual:.2f} (median)"
    )


def _count_by_kind(pairs: pd.DataFrame) -> str:
    return ", ".join(f"{n} {how}" for how, n in pairs["how"].value_counts().items())


def near(study: Study, vectors_run: RunFolder, scan: RunFolder, *, progress: bool = True) -> RunFolder:
    """Near duplicates and outliers of a study, as a separate run made from vectors and scan.

    Returns:
        The run, with `near.parquet` (copies), `questions.parquet`, `unusual.parquet` and `near.json` (sentences with
        research ids).
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
        n_decoded = 0  # two pictures are one pair
        with track("comparing similar images", chosen.most_pairs, "pairs", progress) as advance:

            def picture(image_id: str) -> Pixels:
                nonlocal n_decoded
                n_decoded += 1
                if n_decoded % 2 == 0:
                    advance(1)
                return prepared.decode(place[image_id])

            found = find_near(vectors, picture, known=known, **chosen.model_dump())
        for name, frame in (("near", found.pairs), ("questions", found.questions), ("unusual", found.unusual)):
            with atomic_path(run.path / f"{name}.parquet") as temporary:
                frame.to_parquet(temporary, index=False)
        content = {
            "schema": SCHEMA,
            "backbone": vectors.name,
            "pairs": len(found.pairs),
            "groups": int(found.pairs["group"].nunique()),
            "across_splits": int((found.pairs["split"] != found.pairs["other_split"]).sum()),
            "questions": len(found.questions),
            "limits": {
                "copy": found.limits.copy,
                "question": found.limits.question,
                "null_pairs": found.limits.n_null,
                "usual": found.limits.usual if found.limits.n_null else None,
            },
            "verified": found.verified,
            "ratio": found.ratio,
            "capped": found.capped,
            "to_look_at": _pairs_by_research_id(found.pairs),
            "to_ask": _pairs_by_research_id(found.questions),
            "sentences": near_sentences(found),
        }
        write_json(run.path / "near.json", content)
    return run


def _pairs_by_research_id(pairs: pd.DataFrame, most: int = 50) -> list[dict[str, Any]]:
    """The first pairs without image ids, for reports."""
    columns: Sequence[str] = [c for c in _COLUMNS if c in pairs and not c.endswith("image_id")]
    return [
        {str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        for row in pairs[list(columns)].head(most).to_dict("records")
    ]
