"""Search for images similar to an image id, an image file, a vector or a region, among all images or filtered ones.

The query's own patient is excluded by default: two images of one lesion are similar for a trivial reason. The answer
includes how unusual the query is for this cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.images import Pixels, stretch
from pellucid.cohort.intake import read_image_apart, start_ahead
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.runs import open_finished, parent_of
from pellucid.embed.index import Index, open_index
from pellucid.embed.index.novelty import cohort_distances, mean_distances, percentile
from pellucid.embed.index.other_patients import codes_of, search_elsewhere
from pellucid.embed.search.filters import allowed_rows
from pellucid.embed.store.vectors import Vectors

Region = tuple[int, int, int, int]
LEAST_REGION_PX = 16


@dataclass(frozen=True)
class Answer:
    """The result of a search.

    Attributes:
        hits: `query` (number of the query), rank, image_id, patient, split, similarity (cosine; 1 is the same
            direction), distance (1 − cosine), and the requested columns; nearest first.
        queries: one row per query: `query`, `distance` (mean distance to its ten nearest images of other patients) and
            `percentile` (percentage of the cohort's images with a smaller such distance).
        among: number of images that pass the filters, and of all images.
    """

    hits: pd.DataFrame
    queries: pd.DataFrame
    among: tuple[int, int]

    def sentences(self) -> list[str]:
        """The number of images searched (if filtered), and how unusual each query is."""
        left, n = self.among
        sentences = [f"searched {left:,} of {n:,} images"] if left < n else []
        for row in self.queries.itertuples(index=False):
            query = "the query" if len(self.queries) == 1 else f"query {row.query}"
            sentences.append(f"{query} {_novelty_phrase(float(row.percentile))}")  # type: ignore[arg-type]
        return sentences


def _novelty_phrase(percentile: float) -> str:
    if np.isnan(percentile):
        return "cannot be compared with the cohort (fewer than two patients)"
    if percentile >= 100:
        return (
            "is farther from its nearest images than every sampled image of the cohort: is it the same kind of image?"
        )
    phrase = f"is farther from its ten nearest images of other patients than {percentile:.0f} % of the cohort's images"
    return phrase + (": an unusual image" if percentile >= 95 else "")


def search(
    vectors: Vectors,
    queries: NDArray[np.float32],
    k: int = 12,
    *,
    exclude_patient: str | Sequence[str | None] | None = None,
    where: Sequence[str] = (),
    table: pd.DataFrame | None = None,
    columns: Sequence[str] = (),
    one_per_patient: bool = False,
    index: Index | None = None,
    own_patient: str | None = None,
    own_row: int | None = None,
) -> Answer:
    """The `k` nearest images to one vector or to each of several.

    Args:
        vectors: the store to search.
        queries: (dim,) or (m, dim) float32, in the space of the store.
        k: number of hits per query.
        exclude_patient: research id whose images are excluded; for several queries, one id each.
        where: filters on columns of `table` (or of the store's images), for example `device=A` or `age>60`.
        table: the manifest: rows with `image_id` and further columns.
        columns: columns of `table` to return with each hit, such as the acquisition factors.
        one_per_patient: only the nearest image of each patient.
        index: the index of the store, if already open.
        own_patient: patient of the query, if the patient's images may be found: only other patients determine how
            unusual the query is.
        own_row: row of the query, if it is in the store: never returned.

    Raises:
        UserError: an invalid filter, an unknown patient, or vectors of another length.
    """
    queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
    index = index or open_index(vectors.folder, vectors)
    if queries.shape[1] != index.dim:
        raise UserError(f"the query has {queries.shape[1]} numbers, but vectors of {vectors.name} have {index.dim}")
    if not np.isfinite(queries).all():
        raise UserError("the query contains NaN or infinite values")
    known = _known(vectors, table, where, columns)
    allowed = allowed_rows(known, where) if where else None
    among = index.n if allowed is None else int(allowed.sum())
    if own_row is not None:
        allowed = np.ones(index.n, dtype=bool) if allowed is None else allowed
        allowed[own_row] = False
    patients = vectors.images["patient"].astype(str).to_numpy(dtype=object)
    groups = codes_of(patients)
    names = (
        [exclude_patient] * len(queries)
        if exclude_patient is None or isinstance(exclude_patient, str)
        else exclude_patient
    )
    own = _own(patients, groups, list(names))
    found = search_elsewhere(index, queries, k, groups, own, allowed, one_each=one_per_patient)
    ignored = own if own_patient is None else _own(patients, groups, [own_patient] * len(queries))
    novelty = _novelty(index, patients, groups, queries, ignored)
    return Answer(_hits(vectors, known, columns, *found), novelty, (among, index.n))


def search_image(
    vectors: Vectors,
    image: str,
    k: int = 12,
    *,
    same_patient: bool = False,
    region: Region | None = None,
    file: Path | None = None,
    **options: Any,
) -> Answer:
    """The nearest images to an image of the store, an image file, a region of either, or a vector.

    Args:
        vectors: the store to search.
        image: an image_id, an image file, or a .npy file with one vector, (dim,) or (1, dim).
        k: number of hits.
        same_patient: include images of the query's own patient (never the query itself).
        region: (x, y, width, height) in pixels of the upright original: this part is cropped and embedded like a whole
            image, because the network was trained on images.
        file: the original file of an image_id; needed for a region of it.
        options: as for `search`: where, table, columns, one_per_patient, index, exclude_patient.

    Raises:
        UserError: neither an id nor a readable file, or a region outside the image.
    """
    rows = np.flatnonzero(vectors.images["image_id"].to_numpy() == image)
    path = Path(image)
    if not len(rows) and not path.is_file():
        near = did_you_mean(image, vectors.images["image_id"]) if len(vectors.images) <= 100_000 else ""
        raise UserError(f"`{image}` is neither the id of an embedded image nor an existing file{near}")
    if len(rows):
        row = int(rows[0])
        patient = str(vectors.images["patient"].iloc[row])
        if region is not None:
            if file is None or not file.is_file():
                raise UserError(f"`{image}`: a region needs the original image: give the file instead of the id")
            query = embedded(vectors, file, region)
        else:
            query = np.asarray(vectors.values[row])
        options = {"own_patient": patient, **options}
        if not same_patient:
            options = {"exclude_patient": patient, **options}
        return search(vectors, query, k, own_row=row if region is None else None, **options)
    if path.suffix == ".npy":
        return search(vectors, _vector(path), k, **options)
    return search(vectors, embedded(vectors, path, region), k, **options)


def _vector(path: Path) -> NDArray[np.float32]:
    try:
        query = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: is not a .npy file of numbers ({error})") from None
    if query.ndim == 2 and len(query) == 1:
        query = query[0]
    if query.ndim != 1 or not np.issubdtype(query.dtype, np.number):
        raise UserError(f"{path}: contains {query.shape} {query.dtype}, but one vector, (dim,), is needed")
    return np.asarray(query, dtype=np.float32)


def embedded(vectors: Vectors, path: Path, region: Region | None = None) -> NDArray[np.float32]:
    """(dim,) float32 vector of an image file, or of a region of it, by the backbone of the store.

    Raises:
        UserError: the file cannot be read, the region is outside the image, or the backbone has changed.
    """
    start_ahead()
    backbone = _backbone(vectors)
    try:
        least = 0 if region else backbone.size_px
        pixels = read_image_apart(path, min_side_px=least).pixels
    except UnreadableImage as reason:
        raise UserError(f"{path}: {reason}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from None
    if region is not None:
        pixels = cut_out(pixels, region, str(path))
    return np.asarray(backbone(stretch(pixels, backbone.size_px)[None])[0])


def cut_out(pixels: Pixels, region: Region, where: str) -> Pixels:
    """Crop (x, y, width, height) from (H, W, 3).

    Raises:
        UserError: the region is not inside the image, or is less than 16 pixels wide or high.
    """
    x, y, width, height = region
    full_height, full_width = pixels.shape[:2]
    if min(width, height) < LEAST_REGION_PX:
        raise UserError(
            f"{where}: a region of {width} × {height} pixels is too small: at least {LEAST_REGION_PX} × "
            f"{LEAST_REGION_PX} are needed"
        )
    if x < 0 or y < 0 or x + width > full_width or y + height > full_height:
        raise UserError(
            f"{where}: the region {x},{y},{width},{height} (left, top, width, height) is not inside the image of "
            f"{full_width} × {full_height} pixels"
        )
    return np.ascontiguousarray(pixels[y : y + height, x : x + width])


def parse_region(text: str) -> Region:
    """Parse `x,y,width,height` in pixels.

    Raises:
        UserError: not four whole numbers.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"region `{text}`: write left,top,width,height in pixels, for example 40,25,128,128") from None
    return x, y, width, height


def _backbone(vectors: Vectors) -> Any:
    from pellucid.embed.backbones.backbone import load_backbone
    from pellucid.embed.backbones.compute_choice import Compute
    from pellucid.embed.backbones.readout import ReadoutConfig

    location = _location(vectors)
    keys = {key: vectors.spec[key] for key in ("pooling", "layers", "average") if key in vectors.spec}
    readout = {key: value for key, value in keys.items() if value not in ("none", "model") or key == "average"}
    name = location or vectors.name
    backbone = load_backbone(name, readout=ReadoutConfig(**readout), compute=Compute.from_spec(vectors.spec))
    same = backbone.fingerprint == vectors.spec["fingerprint"]
    space = getattr(vectors, "space", None)
    if not same or (
        space is not None and vectors.spec.get("schema") != "pellucid.vectors/1" and space != backbone.space
    ):
        raise UserError(
            f"the backbone {name} has changed since these vectors were computed: run `pellucid embed` again"
        )
    return backbone


def _location(vectors: Vectors) -> str | None:
    """Where the backbone of the vectors is. That of a run is the run it was made from, wherever the study is now."""
    location = vectors.spec.get("location")
    if not isinstance(location, str) or not location.startswith("run:"):
        return location if isinstance(location, str) else None
    folder = vectors.folder
    while (folder / "run.json").is_file():  # derived vectors were made from vectors
        parents = [parent["stage"] for parent in open_finished(folder).record["parents"]]
        if "pretrain" in parents:
            return f"run:{parent_of(folder, 'pretrain')}"
        if "embed" not in parents:
            break
        folder = parent_of(folder, "embed")
    return location


def _known(vectors: Vectors, table: pd.DataFrame | None, where: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """The columns of table and store for the store's images, in their order."""
    if table is None or not (where or columns):
        return vectors.images
    by_id = table if table.index.name == "image_id" else table.set_index("image_id")
    rows = by_id.reindex(vectors.images["image_id"])
    rows.index = vectors.images.index
    own = {name: vectors.images[name] for name in vectors.images.columns}
    return rows.assign(**own)


def _own(patients: NDArray[Any], groups: NDArray[np.int64], names: list[Any]) -> NDArray[np.int64]:
    """The group of each named patient, −1 for none."""
    number = dict(zip(patients.tolist(), groups.tolist(), strict=True))
    for name in names:
        if name is not None and name not in number:
            near = did_you_mean(str(name), number) if len(number) <= 100_000 else ""
            raise UserError(f"there is no patient `{name}` among these vectors{near}")
    return np.array([-1 if name is None else number[name] for name in names], dtype=np.int64)


def _hits(
    vectors: Vectors,
    known: pd.DataFrame,
    columns: Sequence[str],
    similarity: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> pd.DataFrame:
    query, place = np.nonzero(rows >= 0)
    which = rows[query, place]
    cosine = similarity[query, place].astype(np.float64)
    shown = [c for c in ("image_id", "patient", "split") if c in vectors.images]
    hits = vectors.images[shown].iloc[which].reset_index(drop=True)
    hits.insert(0, "rank", place + 1)
    hits.insert(0, "query", query)
    hits["similarity"], hits["distance"] = cosine, np.clip(1 - cosine, 0, 2)
    for name in columns:
        if name in known and name not in hits:
            hits[name] = _whole_numbers(known[name]).iloc[which].array
    return hits


def _whole_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Show whole numbers without decimals: pandas stores integers with missing values as floats (2024.0)."""
    if column.dtype.kind != "f" or not (column.dropna() % 1 == 0).all():
        return column
    return column.astype("Int64")


def _novelty(
    index: Index,
    patients: NDArray[Any],
    groups: NDArray[np.int64],
    queries: NDArray[np.float32],
    own: NDArray[np.int64],
) -> pd.DataFrame:
    """Distance and percentile of each query with respect to the whole cohort, regardless of filters."""
    record = index.record.get("unusual")
    if record is None:  # a store of the first version: computed once per opened index
        record = index.record["unusual"] = cohort_distances(index, patients)
    distance = mean_distances(index, queries, groups, own)
    return pd.DataFrame(
        {"query": np.arange(len(queries)), "distance": distance, "percentile": percentile(distance, record)}
    )
