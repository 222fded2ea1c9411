"""`embed`: images → vectors and index under one frozen backbone, resumable part by part; old vectors serve again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from cohort.config import read_yaml, validate
from cohort.errors import UserError
from cohort.files import list_folder
from cohort.prepared import Pixels, stretch
from cohort.progress import track
from cohort.readers import UnreadableImage, read_image
from cohort.runs import RunFolder, atomic_path, begin_run, exclusive, is_held, join_run, open_finished, write_json
from cohort.study import Study
from cohort.withdrawn import Withdrawn
from embed.assemble import assemble
from embed.averaging import refuse_flip
from embed.backbone import Backbone, load_backbone, slug
from embed.index import IndexConfig, build_index, extend_index
from embed.parts import Job, clear_parts, cut, fresh_parts, is_fresh, read_part
from embed.reading import Reading
from embed.reuse import COLUMNS, contents, each_once, earlier_stores, is_usable, taken_over
from embed.sources import FileSource, PreparedSource, Source, folder_source, study_source
from embed.stored import WITHOUT_TEXT
from embed.vectors import Vectors, load_vectors, write_spec
from embed.versions import LOCK, PARTS, WITHDRAWN, is_ours, making, publish, tidy
from embed.workers import Named, cores, is_on_gpu, run_parts

BATCH_CPU, BATCH_GPU = 16, 256  # a larger one is no faster on a CPU (benchmarks/LOG.md), and a GPU wants more
_PATIENCE_S = 60.0


class EmbedConfig(Reading):
    """The `embed:` section of study.yaml: what is read off a backbone (`Reading`), and how it is computed."""

    backbones: list[str] = []  # beside those that `run` always adds: pixels, random weights, the pretrained run
    source: Literal["prepared", "originals"] = "prepared"
    batch_size: int = Field(0, ge=0)  # 0: what suits the device
    device: str = "auto"
    workers: int = Field(0, ge=0)  # single-threaded processes on a CPU; 0: one a core
    patients: Literal["none", "mean", "medoid", "weighted"] = "none"  # beside the images' vectors, one a patient
    text: Literal["keep", "mask"] = "keep"  # burned-in text of the originals: painted over, to ask what it tells
    index: IndexConfig = IndexConfig()

    def reading(self) -> Reading:
        """Its part that belongs to the backbone."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})


def embed(study: Study, scan: RunFolder, backbone: str, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Vectors of every usable image of a study; under torchrun several processes share the work.

    Args:
        study: whose `embed:` section is used.
        scan: its finished scan.
        backbone: a name that `embed.backbone.load_backbone` knows.
        device: auto (what the section says), cpu or cuda.

    Raises:
        UserError: the backbone cannot be had, mirror images are not to be averaged in this specialty, or workers keep dying.
    """
    config = study.section("embed", EmbedConfig)
    refuse_flip(study.config.specialty, config.average)
    named = Named(backbone, _own_device(config.device if device == "auto" else device), config.reading())
    encoder = named.load()
    if config.text == "mask":
        encoder = replace(encoder, name=f"{encoder.name}{WITHOUT_TEXT}", location=encoder.location or encoder.name)
    batch_size = config.batch_size or _batch_size(encoder)
    parents = [scan]
    if backbone.startswith("run:") and (Path(backbone[4:]) / "run.json").is_file():
        parents.append(open_finished(Path(backbone[4:]).resolve()))
    key = {
        "backbone": encoder.name,
        **encoder.reading.model_dump(),
        "source": config.source,
        **({} if config.text == "keep" else {"text": config.text}),
        "batch_size": batch_size,
        "index": config.index.model_dump(),
    }
    inputs = {"weights": encoder.fingerprint, "space": encoder.space}
    begin = begin_run if _first() else join_run
    with begin(study.analysis, "embed", slug(encoder.name), key, parents, inputs) as run:
        if run.done:
            return run
        source, images = study_source(config.source, scan.path, study.image_root, encoder.size_px, config.text)
        work = _Work(run.path / "parts", source, named, encoder, batch_size, config.workers, progress)
        made_from = {"key": run.key}
        if not _first():
            there = run.path  # it is renamed once all is done
            work.help(made_from, _worked_on(there), lambda: not there.exists() or (there / "spec.json").exists())
        else:
            stores = earlier_stores(study.analysis, encoder.space, _computed_in(encoder), encoder.reading.tokens)
            by_id = images.set_index("image_id")

            def described(rows: pd.DataFrame) -> pd.DataFrame:
                return by_id.loc[rows["image_id"]].reset_index().assign(content=rows["content"].to_numpy())

            said = {"read_from": config.source, **({} if config.text == "keep" else {"text": config.text})}
            work.do(run.path, made_from, stores, described, said, config.index)
    return run


def embed_folder(
    folder: Path, backbone: str, out: Path, *, device: str = "auto", progress: bool = True, **options: Any
) -> tuple[Path, list[tuple[str, str]]]:
    """Vectors of a plain folder, without a study; every file counts as a patient.

    Called again after files were added to the folder, changed or removed, it brings `out` up to date and computes only
    what is new; until it has ended, `out` is as it was.

    Args:
        options: keys of the `embed:` section, for example pooling="mean" or batch_size=32.

    Returns:
        `out`, and (image_id, reason) of each picture that gave no vector.

    Raises:
        UserError: `out` holds something else, or there is nothing to embed.
    """
    config = validate(EmbedConfig, options, "embed_folder")
    named = Named(backbone, _own_device(config.device if device == "auto" else device), config.reading())
    encoder = named.load()
    batch_size = config.batch_size or _batch_size(encoder)
    if not is_ours(out):
        raise UserError(f"{out}: is not empty; choose another --out")
    withdrawn = Withdrawn.load(out / WITHDRAWN)
    listing = list_folder(folder, out, withdrawn)
    source = folder_source(listing, withdrawn)
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"space": encoder.space, "source": listing.fingerprint}
    made_from = {
        **wanted,
        "computed_in": _computed_in(encoder),
        "batch_size": batch_size,
        "tokens": encoder.reading.tokens,
    }
    work = _Work(out / PARTS, source, named, encoder, batch_size, config.workers, progress)

    def finished() -> dict[str, Any] | None:
        store = _store(out)
        return store.spec if store and all(store.spec.get(k) == v for k, v in wanted.items()) else None

    if not _first():
        alive = partial(is_held, out / LOCK)
        work.help(made_from, alive, lambda: finished() is not None)
        _until(lambda: finished() is not None, alive)
    else:
        with exclusive(out / LOCK, str(out)):
            if finished() is None:
                _bring_up_to_date(work, out, source, made_from, wanted, config.index)
            tidy(out)
    spec = finished()
    assert spec is not None
    return out, [(f["image_id"], f["reason"]) for f in spec["failed"]]


def _bring_up_to_date(
    work: _Work,
    out: Path,
    source: FileSource,
    made_from: dict[str, Any],
    wanted: dict[str, str],
    index: IndexConfig,
) -> None:
    store = _store(out)
    if store is not None and store.space != wanted["space"]:
        raise UserError(f"{out}: holds vectors of another backbone or folder; choose another --out")
    usable = store is not None and is_usable(store, wanted["space"], made_from["computed_in"], made_from["tokens"])
    stores = [store] if store is not None and usable else []
    if store is not None and not usable and not set(store.images["image_id"].astype(str)) & set(source.units):
        raise UserError(f"{out}: holds vectors of another backbone or folder; choose another --out")

    def described(rows: pd.DataFrame) -> pd.DataFrame:
        files = pd.Series(source.units, dtype=object).loc[rows["unit"]].to_numpy()
        columns = {"image_id": rows["image_id"], "patient": files, "split": "", "content": rows["content"]}
        return pd.DataFrame(columns).reset_index(drop=True)

    made = making(out)
    work.do(made, made_from, stores, described, {"read_from": "folder", **wanted}, index, related=True)
    publish(out, f"{time.time_ns():x}")


def folder_options(overrides: Sequence[str]) -> dict[str, Any]:
    """`embed.pooling=mean …` as a person types it, as the `options` of `embed_folder`.

    Raises:
        UserError: a key of another section: a plain folder has no study.
    """
    if not overrides:
        return {}
    given = read_yaml([], overrides)
    other = sorted(set(given) - {"embed"})
    if other:
        hint = f"; did you mean `embed.{other[0]}`?" if other[0] in EmbedConfig.model_fields else ""
        raise UserError(
            f"`{other[0]}`: of a plain folder only keys of `embed:` say something, embed.batch_size=32 and so on{hint}"
        )
    options = given.get("embed", {})
    return dict(options) if isinstance(options, dict) else {"embed": options}


def embed_array(
    images: NDArray[np.uint8] | Sequence[Path | str],
    backbone: str | Backbone,
    *,
    device: str = "auto",
    **options: Any,
) -> NDArray[np.float32]:
    """Vectors of images that are at hand, without any file being written.

    Args:
        images: (n, h, w, 3) uint8 RGB, or paths (of a file of several pictures the middle one is taken).
        backbone: a name that `load_backbone` knows, or a loaded backbone.
        options: keys of the `embed:` section, for example pooling="mean" or batch_size=32.

    Returns:
        (n, dim) float32, in the order given.

    Raises:
        UserError: a file cannot be read (all are named), or the array is of another kind.
    """
    config = validate(EmbedConfig, options, "embed_array")
    encoder = load_backbone(backbone, device, config.reading()) if isinstance(backbone, str) else backbone
    if isinstance(images, np.ndarray) and (images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8):
        raise UserError(
            f"embed_array: takes (n, height, width, 3) uint8 RGB, not {images.shape} {images.dtype}: scale floats to "
            "0 … 255, repeat grey values three times"
        )
    size = config.batch_size or _batch_size(encoder)
    failed: list[str] = []

    def one(image: Any) -> Pixels:
        if isinstance(image, np.ndarray):
            return stretch(image, encoder.size_px)
        try:
            return stretch(read_image(Path(image).read_bytes(), min_side_px=encoder.size_px).pixels, encoder.size_px)
        except UnreadableImage as reason:
            failed.append(f"{image}: {reason}")
        except OSError as error:
            failed.append(f"{image}: cannot be opened ({error.strerror})")
        return np.zeros((encoder.size_px, encoder.size_px, 3), np.uint8)  # is never returned

    def some(start: int) -> NDArray[np.float32]:
        return encoder(np.stack([one(image) for image in images[start : start + size]]))

    threads = torch.get_num_threads()
    on_gpu = is_on_gpu(encoder)
    try:
        if not on_gpu:
            torch.set_num_threads(1)  # a batch a core
        with ThreadPoolExecutor(1 if on_gpu else cores()) as pool:
            parts = list(pool.map(some, range(0, len(images), size)))
    finally:
        torch.set_num_threads(threads)
    if failed:
        raise UserError(
            f"embed_array: {len(failed)} of {len(images)} files gave no vector:\n  " + "\n  ".join(sorted(failed))
        )
    return np.concatenate(parts) if parts else np.empty((0, encoder.dim), np.float32)


def _store(out: Path) -> Vectors | None:
    """The store in a folder; None where there is none, or a damaged one, which is to be made anew."""
    if not (out / "spec.json").is_file():
        return None
    try:
        return load_vectors(out)
    except UserError as error:
        if "has schema" in str(error):  # of a later version: not ours to overwrite
            raise
        return None


Described = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class _Work:
    """One extraction: what is taken over, what is computed, and what is written in the end."""

    parts: Path
    source: Source
    named: Named
    encoder: Backbone
    batch_size: int
    workers: int
    progress: bool

    def do(
        self,
        folder: Path,
        made_from: dict[str, Any],
        stores: list[Vectors],
        described: Described,
        said: dict[str, Any],
        index: IndexConfig,
        related: bool = False,
    ) -> list[dict[str, str]]:
        """Compute what is missing and write the store into `folder`.

        Args:
            made_from: what the parts of an interrupted call must have been made from to be of use.
            stores: whose vectors may be taken over, the newest first.
            described: rows of `unit`, `image_id` and `content` → what `images.parquet` says of them.
            said: what `spec.json` says beside the backbone.
            related: the only store must have something in common with the source.
        """
        if (folder / "spec.json").is_file():  # the last file: killed after it, there is nothing left to do
            clear_parts(self.parts)
            written: list[dict[str, str]] = json.loads((folder / "spec.json").read_text(encoding="utf-8"))["failed"]
            return written
        if not is_fresh(self.parts, made_from) or not (self.parts / "plan.json").is_file():
            fresh_parts(self.parts, made_from)
            self._plan(stores, related)
        job, taken, earlier = self._planned(stores)
        self._compute(job)
        self._refuse_damage(job)
        kept = self.encoder.reading.tokens and self.encoder.token_grid is not None
        tokens = folder / "tokens.npy" if kept else None
        whole = assemble(job, taken, earlier, self.encoder.dim, folder / "vectors.npy", tokens)
        if not len(whole.rows):
            first = whole.failed[0]
            raise UserError(
                f"none of the {len(whole.failed)} images could be read (first: `{first['image_id']}`: {first['reason']})"
            )
        images = described(whole.rows)
        spec = {
            **self.encoder.spec(),
            **said,
            "taken_over": int((whole.rows["old_row"] >= 0).sum()),
            "failed": whole.failed,
        }
        old_rows = each_once(whole.rows["old_row"].to_numpy())
        options = (index.recall, index.kind, index.memory_gb, images["patient"].to_numpy())
        if earlier is not None:
            extend_index(earlier.folder, folder, whole.values, self.encoder.space, old_rows, *options)
        else:
            build_index(folder, whole.values, self.encoder.space, *options)
        with atomic_path(folder / "images.parquet") as temporary:
            images.to_parquet(temporary, index=False)
        write_spec(folder, spec, len(images), self.encoder.dim)
        clear_parts(self.parts)
        return whole.failed

    def _refuse_damage(self, job: Job) -> None:
        """Prepared copies were whole when the scan wrote them: before anything is written, say which one is no longer."""
        if not isinstance(self.source, PreparedSource):
            return
        for number in range(job.n_parts):
            part = read_part(job.folder, number)
            bad = np.flatnonzero(np.char.find(part.reasons, "damaged") >= 0)
            if len(bad):
                clear_parts(self.parts)  # after the new scan all of them are read again
                raise UserError(
                    f"{self.source.folder}: prepared image `{part.image_ids[bad[0]]}` is damaged: delete the run and scan again"
                )

    def help(self, made_from: dict[str, Any], alive: Callable[[], bool], ended: Callable[[], bool]) -> None:
        """Compute parts of what the first process has planned.

        Args:
            alive: whether the first process is there.
            ended: whether there is nothing left to do.
        """

        def planned() -> bool:
            return is_fresh(self.parts, made_from) and (self.parts / "plan.json").is_file()

        _until(lambda: ended() or planned(), alive)
        try:
            todo = np.load(self.parts / "todo.npy")
        except FileNotFoundError:  # it was quicker than we
            return
        self._compute(self._job(todo))

    def _plan(self, stores: list[Vectors], related: bool) -> None:
        """Decide what is taken over from which store; the same after a kill, whatever other stores there are by then."""
        n = len(self.source.units)
        wanted = getattr(self.source, "wanted", None)
        best, chosen = pd.DataFrame(columns=list(COLUMNS)), None
        if stores:
            now = contents(self.source, cores())
            for store in stores:
                rows = taken_over(self.source, now, store, wanted)
                if len(rows) > len(best):
                    best, chosen = rows, store
            if related and chosen is None:
                raise UserError(
                    f"{self.parts.parent}: holds vectors of another backbone or folder; choose another --out"
                )
        todo = np.setdiff1d(np.arange(n), best["unit"].to_numpy(dtype=np.int64))
        best.to_parquet(self.parts / "taken.parquet", index=False)
        np.save(self.parts / "todo.npy", todo)
        write_json(self.parts / "plan.json", {"earlier": None if chosen is None else str(chosen.folder.name)})

    def _planned(self, stores: list[Vectors]) -> tuple[Job, pd.DataFrame, Vectors | None]:
        name = json.loads((self.parts / "plan.json").read_text(encoding="utf-8"))["earlier"]
        earlier = next((store for store in stores if store.folder.name == name), None)
        if name is not None and earlier is None:  # it went while we were away
            clear_parts(self.parts)
            raise UserError(f"the vectors of {name}, of which some were to serve again, are gone: repeat the command")
        taken = pd.read_parquet(self.parts / "taken.parquet")
        return self._job(np.load(self.parts / "todo.npy")), taken, earlier

    def _job(self, todo: NDArray[np.int64]) -> Job:
        bounds = cut(self.source, todo, self.batch_size)
        pad = is_on_gpu(self.encoder)
        return Job(self.parts, self.source, todo, bounds, self.encoder.size_px, self.batch_size, pad)

    def _compute(self, job: Job) -> None:
        with ExitStack() as stack:
            shown = self.progress and _first()
            advance = stack.enter_context(track(f"embedding with {self.encoder.name}", len(job.units), "images", shown))
            run_parts(job, self.named, self.encoder, advance, workers=self.workers)


def _first() -> bool:
    """Whether this is the only process, or the first of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _own_device(device: str) -> str:
    """Under torchrun each process has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or device == "cpu" or not torch.cuda.is_available():
        return device
    torch.cuda.set_device(int(local))
    return device


def _batch_size(encoder: Backbone) -> int:
    return BATCH_GPU if is_on_gpu(encoder) else BATCH_CPU


def _computed_in(encoder: Backbone) -> str:
    return str(encoder.spec()["computed_in"])


def _worked_on(working: Path) -> Callable[[], bool]:
    """Whether the process that has begun a run still holds it."""
    return partial(is_held, working.with_name(f"{working.name.removesuffix('.partial')}.lock"))


def _until(there: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Wait for the first process.

    Raises:
        UserError: it has not been there for a minute.
    """
    seen = time.monotonic()
    while not there():
        if alive():
            seen = time.monotonic()
        elif time.monotonic() - seen > _PATIENCE_S:
            raise UserError("embedding: the first process has not begun or not finished; its own last words say why")
        time.sleep(0.1)
