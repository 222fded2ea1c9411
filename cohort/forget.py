"""Forgetting, as far as images and tables go: who is meant, the list of who withdrew, and the runs `read` and `scan`.

Vectors are forgotten by `embed.forget`, weights are marked by `pretrain.forget`, and `explore.forget` calls them all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cohort.config import did_you_mean
from cohort.editing import edit_folder, filter_parquet, forgotten, remove_folder
from cohort.errors import UserError
from cohort.files import list_images
from cohort.matching import match_images, patients_of_images
from cohort.prepared import shard_path, write_shard
from cohort.runs import RunFolder, atomic_path, list_runs, open_finished, run_key, sha256_file
from cohort.study import FromPath, Study
from cohort.table import as_text, read_table
from cohort.withdrawn import Withdrawal, Withdrawn


@dataclass(frozen=True)
class Meant:
    """What a forgetting is about, in plain words; it is shown to the user and never stored.

    Attributes:
        typed: as the user named them.
        patients: their own ids.
        files: files that are theirs alone, below the image folder.
        frames: ids of single frames, where the file holds others' frames too.
        n_images: pictures of theirs that any scan knows.
        rows: texts of the table's key column that name their images.
    """

    typed: tuple[str, ...]
    patients: tuple[str, ...]
    files: tuple[str, ...]
    frames: tuple[str, ...]
    n_images: int
    rows: tuple[str, ...]


def find_meant(study: Study, typed: Sequence[str], withdrawn: Withdrawn) -> Meant:
    """Patients by their own ids (as in the table, the path or the header) or by research id.

    Raises:
        UserError: nobody is called so, or two different patients are.
    """
    known = _everybody(study)
    newest = _newest_scan(study)
    patients: set[str] = set()
    for name in typed:
        own = set(known.loc[known["patient_source_id"] == name, "patient_source_id"])
        research = set(newest.loc[newest["patient"] == name, "patient_source_id"]) if len(newest) else set()
        if own and research and own != research:
            raise UserError(
                f"`{name}` is the own id of one patient and the research id of another: rename neither, but name the one "
                "you mean by the other of her two ids (the manifest of the scan has both)"
            )
        earlier = withdrawn.was_asked(name)
        if not own and earlier is not None:
            raise UserError(
                f"`{name}` has been forgotten ({earlier.when})"
                + (
                    "; research ids are dealt anew by a scan, and it now means somebody else: name that patient by the own id"
                    if research
                    else "; nothing of it is left here"
                )
            )
        if not own and not research:
            if withdrawn.holds_patient(name):
                raise UserError(f"`{name}` has been forgotten; nothing of it is left here")
            near = did_you_mean(name, [*known["patient_source_id"].dropna().astype(str).unique(), *newest["patient"]])
            raise UserError(
                f"{study.path}: no scan knows a patient `{name}`{near}: give the id as in the table, the path or the header, "
                "or the research id. If it was never scanned, scan first, so that its images are known"
            )
        patients |= own | research
    return _meant(study, typed, known, known["patient_source_id"].isin(patients))


def _meant(study: Study, typed: Sequence[str], known: pd.DataFrame, chosen: pd.Series) -> Meant:
    """Those pictures of `known`; a file goes whole unless it holds frames of a patient who stays."""
    theirs, others = known[chosen], known[~chosen & known["patient_source_id"].notna()]
    alone = ~theirs["file"].isin(set(others["file"]))
    return Meant(
        tuple(typed),
        tuple(sorted(theirs["patient_source_id"].unique())),
        tuple(sorted(theirs.loc[alone, "file"].unique())),
        tuple(sorted(theirs.loc[~alone, "image_id"].unique())),
        int(theirs["image_id"].nunique()),
        tuple(_table_rows(study, theirs)),
    )


def forget_late(study: Study, images: pd.DataFrame, chosen: pd.Series) -> None:
    """Images of somebody who withdrew earlier were read before their patient was known: take them out again.

    Args:
        images: image_id, file, frame and patient_source_id of all pictures of the scan that is going on.
        chosen: which of them are hers.
    """
    withdrawn = Withdrawn.load(study.withdrawn)
    entry = put_on_list(withdrawn, _meant(study, [], images, chosen))
    withdrawn.save()
    for run in _finished(study, "read"):
        forget_in_read(study, run, withdrawn, entry)
    relink(study.analysis)
    entry.done = True
    withdrawn.save()


def _finished(study: Study, stage: str) -> list[RunFolder]:
    rows = [r for r in list_runs(study.analysis) if r["stage"] == stage and r["state"] in {"done", "stale"}]
    return [open_finished(Path(row["path"])) for row in rows]


def _everybody(study: Study) -> pd.DataFrame:
    """image_id, file, frame and own id of the patient of every picture that any scan knows."""
    columns = ["image_id", "file", "frame", "patient_source_id"]
    parts = [pd.read_parquet(run.path / "manifest.parquet", columns=columns) for run in _finished(study, "scan")]
    if isinstance(study.config.patient, FromPath):  # files that no scan has seen yet name their patient as well
        listing = list_images(study)
        files = pd.DataFrame({"image_id": listing.image_ids, "file": listing.image_ids, "frame": ""})
        parts.append(files.assign(patient_source_id=patients_of_images(study, files, [])))
    if not parts:
        return pd.DataFrame(columns=columns)
    everybody = pd.concat(parts, ignore_index=True).drop_duplicates()
    return everybody.astype({"patient_source_id": object})


def _newest_scan(study: Study) -> pd.DataFrame:
    scans = _finished(study, "scan")
    if not scans:
        return pd.DataFrame(columns=["patient", "patient_source_id"])
    frame = pd.read_parquet(scans[-1].path / "manifest.parquet", columns=["patient", "patient_source_id"])
    return frame[frame["patient"] != ""].drop_duplicates()


def _table_rows(study: Study, theirs: pd.DataFrame) -> list[str]:
    """Texts of the table's key column that name these images: later scans pass such rows over in silence."""
    if study.table is None or study.config.image is None or not study.table.is_file():
        return []
    try:
        names = read_table(study.table, [study.config.image])[study.config.image]
        images = theirs[["image_id", "file", "frame"]].drop_duplicates("image_id").reset_index(drop=True)
        row_of = match_images(names, images, study, study.table, [], "")
    except UserError:  # a table that has changed since: it names none of them any more
        return []
    return sorted(set(as_text(names).loc[sorted(set(row_of[row_of >= 0]))].dropna()))


def table_rows_of(study: Study, meant: Meant) -> list[int]:
    """Numbers, counted as in the file, of the table's rows that speak of them."""
    if study.table is None or not study.table.is_file():
        return []
    rule, image = study.config.patient, study.config.image
    by_patient = rule if isinstance(rule, str) and rule != "none" else None if isinstance(rule, str) else rule.column
    wanted = [name for name in (image, by_patient) if name]
    try:
        table = read_table(study.table, wanted)
    except UserError:
        return []
    theirs = pd.Series(False, index=table.index)
    if image:
        theirs |= as_text(table[image]).isin(meant.rows)
    if by_patient:
        theirs |= as_text(table[by_patient]).isin(meant.patients)
    return [int(i) + 2 for i in table.index[theirs]]


def put_on_list(withdrawn: Withdrawn, meant: Meant) -> Withdrawal:
    """Add the withdrawal, not yet done, to the list; once that is saved no scan takes these images in."""
    entry = withdrawn.new(meant.n_images)
    for kind, texts in (
        ("patients", meant.patients),
        ("files", meant.files),
        ("frames", meant.frames),
        ("rows", meant.rows),
        ("asked", meant.typed),
    ):
        getattr(entry, kind).update(withdrawn.hash(kind, text) for text in texts)
    return entry


def withdrawn_rows(run: RunFolder, withdrawn: Withdrawn) -> NDArray[np.bool_]:
    """For each row of a run's table of images whether it was withdrawn; empty where the run has no such table."""
    name = "manifest.parquet" if run.stage == "scan" else "images.parquet"
    if not (run.path / name).is_file():
        return np.zeros(0, dtype=bool)
    if run.stage in {"read", "scan"}:
        table = pq.read_table(run.path / name, columns=["image_id", "file"])
        return withdrawn.which_files(table["file"].to_pylist(), table["image_id"].to_pylist())
    if "image_id" not in pq.read_schema(run.path / name).names:
        return np.zeros(0, dtype=bool)
    return withdrawn.which(pq.read_table(run.path / name, columns=["image_id"])["image_id"].to_pylist())


# ------------------------------------------------------------------------------------------------ read


def forget_in_read(study: Study, run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Take images out of a `read` run: their rows, and their bytes in the shards, whose other rows keep their places.

    A run of the study as it is now gets the key that the study has without the withdrawn files, so that nothing is decoded
    again; this costs the shards that are touched and one reading of images.parquet.

    Returns:
        The folder under its final name; None if nothing was left of it.
    """
    gone = withdrawn_rows(run, withdrawn)
    inputs = _inputs_now(study, run, withdrawn, gone)
    if not gone.any() and inputs == run.record["inputs"]:
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    record = dict(run.record)
    name = run.path.name
    if inputs != record["inputs"]:
        former = {"former_key": run.key}
        record |= {"inputs": inputs, "key": run_key("read", record["config"], inputs=inputs)}
        name = f"{run.name}-{record['key'][:8]}"
    else:
        former = {}
    record = forgotten(record, entry.name, entry.when, int(gone.sum()), **former)

    def build(staged: Path) -> list[str]:
        images = pq.read_table(run.path / "images.parquet", columns=["shard", "shard_row"])
        places = images.to_pandas()[gone]
        removed = []
        for shard, rows in places[places["shard"] >= 0].groupby("shard")["shard_row"]:
            if not _blank_shard(run.path, staged, int(shard), set(rows)):
                removed.append(shard_path(Path(), int(shard)).as_posix())
        for path, start, count in _row_files(run.path, np.flatnonzero(gone)):
            filter_parquet(path, staged / "rows" / path.name, ~gone[start : start + count])
        filter_parquet(run.path / "images.parquet", staged / "images.parquet", ~gone)
        return removed

    return edit_folder(run.path, build, record=record, name=name)


def _blank_shard(folder: Path, staged: Path, shard: int, rows: set[int]) -> bool:
    """A shard whose given rows are empty, written below `staged`; False if no other row was left."""
    with pa.memory_map(str(shard_path(folder, shard))) as source:
        table = pa.ipc.open_file(source).read_all()
        ids = ["" if i in rows else image_id for i, image_id in enumerate(table["image_id"].to_pylist())]
        images = [b"" if i in rows else image for i, image in enumerate(table["image"].to_pylist())]
        del table
    if not any(images):
        return False
    target = shard_path(staged, shard)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_shard(target, ids, images)
    return True


def _row_files(folder: Path, gone: NDArray[np.intp]) -> list[tuple[Path, int, int]]:
    """The files of rows/ that hold the given rows of images.parquet, with where they begin there and how many they are."""
    if not (folder / "rows").is_dir():
        return []
    found = []
    start = 0
    for path in sorted((folder / "rows").glob("rows-*.parquet"), key=lambda p: int(p.stem.rpartition("-")[2])):
        count = pq.read_metadata(path).num_rows
        first, past = np.searchsorted(gone, [start, start + count])
        if past > first:
            found.append((path, start, count))
        start += count
    return found


def _inputs_now(study: Study, run: RunFolder, withdrawn: Withdrawn, gone: NDArray[np.bool_]) -> dict[str, str]:
    """What the run's inputs are after the withdrawal; as they were where it is not of the study as it is now."""
    inputs = dict(run.record["inputs"])
    try:
        before, now = list_images(study, withdrawn.without_pending()), list_images(study, withdrawn)
    except UserError:  # the originals are not there: the next scan will have to say so
        return inputs
    new = read_inputs(now.fingerprint, withdrawn)
    if inputs in (new, read_inputs(before.fingerprint, withdrawn.without_pending())):
        return new
    # Their originals may have been removed already: then the others must be as they were when they were read.
    files = pq.read_table(run.path / "images.parquet", columns=["file", "n_bytes"]).to_pandas()
    sizes = dict(files[~gone].drop_duplicates("file").itertuples(index=False, name=None))
    started = datetime.fromisoformat(run.record["started"]).timestamp()
    same = sizes == dict(zip(now.image_ids, now.n_bytes, strict=True)) and all(
        (now.root / name).stat().st_mtime < started for name in now.image_ids
    )
    return new if same else inputs


def read_inputs(fingerprint: str, withdrawn: Withdrawn) -> dict[str, str]:
    """The inputs that a `read` run is addressed by."""
    frames = withdrawn.frames_fingerprint
    return {"files": fingerprint, **({"withdrawn frames": frames} if frames else {})}


# ------------------------------------------------------------------------------------------------ scan and the rest


def forget_in_scan(run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Take images out of the manifest of a `scan` run; its source audit, which counted them, goes: the next scan makes
    one for the patients who are left.

    Returns:
        The folder; None if nothing was left of it.
    """
    gone = withdrawn_rows(run, withdrawn)
    if not gone.any():
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    ids = set(
        np.array(pq.read_table(run.path / "manifest.parquet", columns=["image_id"])["image_id"].to_pylist())[gone]
    )

    def build(staged: Path) -> list[str]:
        filter_parquet(run.path / "manifest.parquet", staged / "manifest.parquet", ~gone, {"duplicate_of": ids})
        return [path.name for path in run.path.iterdir() if path.name == "source.json"]

    return edit_folder(run.path, build, record=forgotten(run.record, entry.name, entry.when, int(gone.sum())))


def relink(analysis: Path) -> None:
    """Runs that were made from an edited run get to know its new checksum (and its new name)."""
    order = {"read": 0, "scan": 1, "pretrain": 2, "embed": 3}
    relinked = True
    while relinked:  # one at a time: its own checksums are others afterwards, and it may be a parent too
        relinked = False
        rows = [row for row in list_runs(analysis) if row["state"] in {"done", "stale"}]
        runs = sorted((open_finished(Path(row["path"])) for row in rows), key=lambda run: order.get(run.stage, 9))
        edited: dict[str, RunFolder] = {}
        for run in runs:
            parents = run.record["parents"]
            if "forgotten" in run.record or any(parent["key"] in edited for parent in parents):
                edited |= dict.fromkeys([run.key, *former_keys(run.record)], run)
            now = [_renewed(parent, edited) for parent in parents]
            if now != parents:
                edit_folder(run.path, lambda staged: [], record={**run.record, "parents": now})
                relinked = True
                break


def former_keys(record: dict[str, Any]) -> list[str]:
    """Keys that a run had before images were taken out of it."""
    return [entry["former_key"] for entry in record.get("forgotten", []) if "former_key" in entry]


def _renewed(parent: dict[str, str], by_key: dict[str, RunFolder]) -> dict[str, str]:
    run = by_key.get(parent["key"])
    if run is None:
        return parent
    return {
        **parent,
        "name": run.path.name,
        "key": run.key,
        "path": f"{run.stage}/{run.path.name}",
        "sha256": sha256_file(run.path / "SHA256SUMS"),
    }


def annotated_files(folder: Path, withdrawn: Withdrawn) -> dict[Path, int]:
    """Files of the annotation folder that speak of withdrawn images, and how many of their lines do."""
    found = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in {".csv", ".jsonl"} and path.is_file():
            n = _kept_lines(path, withdrawn)[1]
            if n:
                found[path] = n
    return found


def forget_annotations(folder: Path, withdrawn: Withdrawn) -> int:
    """Take what people said of withdrawn images out of the annotation folder; how many lines went."""
    count = 0
    for path in annotated_files(folder, withdrawn):
        kept, n = _kept_lines(path, withdrawn)
        with atomic_path(path) as temporary:
            temporary.write_text(kept, encoding="utf-8", newline="")
        count += n
    return count


def _kept_lines(path: Path, withdrawn: Withdrawn) -> tuple[str, int]:
    """The text without the lines of withdrawn images (a `.csv` with a column image_id, a `.jsonl` with such a key)."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if path.suffix == ".jsonl":
        lines = text.splitlines(keepends=True)
        ids = [_image_of(line) for line in lines]
        gone = withdrawn.which(ids)
        return "".join(line for line, out in zip(lines, gone, strict=True) if not out), int(gone.sum())
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not rows or "image_id" not in rows[0]:
        return text, 0
    place = rows[0].index("image_id")
    gone = withdrawn.which([row[place] if place < len(row) else "" for row in rows[1:]])
    if not gone.any():
        return text, 0
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([rows[0], *(row for row, away in zip(rows[1:], gone, strict=True) if not away)])
    return out.getvalue(), int(gone.sum())


def _image_of(line: str) -> str:
    try:
        content = json.loads(line)
    except ValueError:
        return ""
    return str(content.get("image_id", "")) if isinstance(content, dict) else ""
