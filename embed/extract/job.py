"""One extraction, from top to bottom: plan, reuse earlier vectors, compute the rest in chunks, collect, index.

A study (`stage.py`) and a plain folder (`plain_folder.py`) both run it. The first process plans and finishes; under
torchrun the other processes help to compute.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.progress import cores_per_process, is_first_process, track
from pellucid.cohort.runs import atomic_path, clear_parts, how_to_repair, is_held, write_json
from pellucid.embed.backbones.backbone import Backbone
from pellucid.embed.backbones.compute_choice import Compute
from pellucid.embed.extract.chunks import (
    ExtractionJob,
    chunk_bounds,
    done_chunks,
    holds_chunks_of,
    prepare_chunk_folder,
    read_chunk,
)
from pellucid.embed.extract.collect import Collected, collect_chunks
from pellucid.embed.extract.image_sources import ImageSource, PreparedSource
from pellucid.embed.extract.reused_vectors import COLUMNS, contents, each_once, reusable_rows
from pellucid.embed.extract.workers import BackboneRequest, compute_chunks
from pellucid.embed.index import IndexConfig, build_index, extend_index
from pellucid.embed.store.vectors import Vectors, write_spec

_PATIENCE_S = 60.0

# rows of `unit`, `image_id` and `content` → the rows of `images.parquet`
DescribeImages = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class Extraction:
    """One extraction.

    Attributes:
        chunk_folder: where plan and chunks are kept until the store is written.
        source: where images come from.
        request: how a worker process loads the backbone.
        encoder: the backbone, loaded.
        batch_size: images computed at once.
        workers: on a CPU; 0: one per core.
        progress: show a progress bar.
    """

    chunk_folder: Path
    source: ImageSource
    request: BackboneRequest
    encoder: Backbone
    batch_size: int
    workers: int
    progress: bool

    def run_as_first(
        self,
        folder: Path,
        made_from: dict[str, Any],
        stores: list[Vectors],
        describe: DescribeImages,
        more_spec: dict[str, Any],
        index: IndexConfig,
        must_share: bool = False,
    ) -> list[dict[str, str]]:
        """Compute what is missing and write the store into `folder`.

        Args:
            made_from: identifies the extraction; chunks of an interrupted run with another value are deleted.
            stores: stores whose vectors may be reused, the newest first.
            describe: see `DescribeImages`.
            more_spec: entries of `spec.json` in addition to those of the backbone.
            must_share: refuse if no vector of `stores` can be reused.

        Returns:
            The pictures without a vector: image_id, reason and content of each.

        Raises:
            UserError: no image could be read, a prepared copy is damaged, or workers keep dying.
        """
        if (folder / "spec.json").is_file():  # written last: an interrupted run had finished all but the cleaning up
            clear_parts(self.chunk_folder)
            failed: list[dict[str, str]] = json.loads((folder / "spec.json").read_text(encoding="utf-8"))["failed"]
            return failed
        resumed = self._is_planned(made_from)
        if not resumed:
            prepare_chunk_folder(self.chunk_folder, made_from)
            self._write_plan(stores, must_share)
        job, reused, earlier = self._read_plan(stores)
        self._apply_planned_compute()
        self._report_number_type(job, resumed, earlier)
        self._compute(job)
        self._refuse_damaged_copies(job)
        tokens = folder / "tokens.npy" if self.encoder.stores_tokens else None
        collected = collect_chunks(job, reused, earlier, self.encoder.dim, folder / "vectors.npy", tokens)
        if not len(collected.rows):
            first = collected.failed[0]
            raise UserError(
                f"none of the {len(collected.failed)} images could be read (first: `{first['image_id']}`: "
                f"{first['reason']})"
            )
        self._write_store(folder, collected, earlier, describe(collected.rows), more_spec, index)
        clear_parts(self.chunk_folder)
        return collected.failed

    def run_as_helper(self, made_from: dict[str, Any], alive: Callable[[], bool], ended: Callable[[], bool]) -> None:
        """Compute chunks that the first process has planned.

        Args:
            alive: whether the first process is running.
            ended: whether nothing is left to do.
        """
        wait_until(lambda: ended() or self._is_planned(made_from), alive)
        try:
            todo = np.load(self.chunk_folder / "todo.npy")
            self._apply_planned_compute()
        except FileNotFoundError:  # the first process has already finished
            return
        self._compute(self._job(todo))

    # --- plan ---

    def _is_planned(self, made_from: dict[str, Any]) -> bool:
        return holds_chunks_of(self.chunk_folder, made_from) and (self.chunk_folder / "plan.json").is_file()

    def _write_plan(self, stores: list[Vectors], must_share: bool) -> None:
        """Choose the store with the most reusable vectors. The plan is kept after a kill, even if other stores
        appear."""
        reused, chosen = pd.DataFrame(columns=list(COLUMNS)), None
        if stores:
            now = contents(self.source, cores_per_process())
            pictures = getattr(self.source, "wanted", None)
            for store in stores:
                rows = reusable_rows(self.source, now, store, pictures)
                if len(rows) > len(reused):
                    reused, chosen = rows, store
            if must_share and chosen is None:
                raise UserError(
                    f"{self.chunk_folder.parent}: contains vectors of another backbone or folder; choose another --out"
                )
        todo = np.setdiff1d(np.arange(len(self.source.units)), reused["unit"].to_numpy(dtype=np.int64))
        reused.to_parquet(self.chunk_folder / "taken.parquet", index=False)
        np.save(self.chunk_folder / "todo.npy", todo)
        # All vectors of a store are computed in one way: that of the reused ones, or the fastest on this machine.
        compute = self.encoder.computing if chosen is None else Compute.from_spec(chosen.spec)
        earlier = None if chosen is None else str(chosen.folder.name)
        write_json(self.chunk_folder / "plan.json", {"earlier": earlier, "compute": compute.record()})

    def _read_plan(self, stores: list[Vectors]) -> tuple[ExtractionJob, pd.DataFrame, Vectors | None]:
        """The job, the rows that are reused, and the store that they come from."""
        name = json.loads((self.chunk_folder / "plan.json").read_text(encoding="utf-8"))["earlier"]
        earlier = next((store for store in stores if store.folder.name == name), None)
        if name is not None and earlier is None:  # removed since the plan was written
            clear_parts(self.chunk_folder)
            raise UserError(f"the vectors of {name}, some of which were to be reused, were removed: repeat the command")
        reused = pd.read_parquet(self.chunk_folder / "taken.parquet")
        return self._job(np.load(self.chunk_folder / "todo.npy")), reused, earlier

    def _job(self, todo: NDArray[np.int64]) -> ExtractionJob:
        bounds = chunk_bounds(self.source, todo, self.batch_size)
        pad = self.encoder.is_on_gpu
        return ExtractionJob(self.chunk_folder, self.source, todo, bounds, self.encoder.size_px, self.batch_size, pad)

    # --- compute ---

    def _apply_planned_compute(self) -> None:
        """Compute as planned: the same in every process and after every interruption."""
        plan = json.loads((self.chunk_folder / "plan.json").read_text(encoding="utf-8"))
        if "compute" in plan:
            compute = Compute.from_record(plan["compute"])
            self.encoder, self.request = self.encoder.computed_by(compute), replace(self.request, compute=compute)

    def _report_number_type(self, job: ExtractionJob, resumed: bool, earlier: Vectors | None) -> None:
        precision = self.encoder.computing.precision
        if resumed and done_chunks(self.chunk_folder):
            _report(f"resuming in {precision}, the number type of the interrupted run")
        elif earlier is not None and len(job.units):
            _report(f"new images are computed in {precision}, the number type of the vectors in {earlier.folder.name}")

    def _compute(self, job: ExtractionJob) -> None:
        with ExitStack() as stack:
            shown = self.progress and is_first_process()
            advance = stack.enter_context(track(f"embedding with {self.encoder.name}", len(job.units), "images", shown))
            compute_chunks(job, self.request, self.encoder, advance, workers=self.workers)

    def _refuse_damaged_copies(self, job: ExtractionJob) -> None:
        """Prepared copies were intact after the scan: before anything is written, name one that is damaged now."""
        if not isinstance(self.source, PreparedSource):
            return
        for number in range(job.n_chunks):
            chunk = read_chunk(job.folder, number)
            bad = np.flatnonzero(np.char.find(chunk.reasons, "damaged") >= 0)
            if len(bad):
                clear_parts(self.chunk_folder)  # after the new scan all images are read again
                raise UserError(
                    f"{self.source.folder}: the prepared copy of `{chunk.image_ids[bad[0]]}` is damaged: "
                    f"{how_to_repair(self.source.folder)}"
                )

    # --- write ---

    def _write_store(
        self,
        folder: Path,
        collected: Collected,
        earlier: Vectors | None,
        images: pd.DataFrame,
        more_spec: dict[str, Any],
        index: IndexConfig,
    ) -> None:
        """Write index, `images.parquet` and, last of all, `spec.json`."""
        values, space, old_rows = collected.values, self.encoder.space, collected.rows["old_row"].to_numpy()
        options = (index.recall, index.kind, index.memory_gb, images["patient"].to_numpy())
        if earlier is not None:
            extend_index(earlier.folder, folder, values, space, each_once(old_rows), *options)
        else:
            build_index(folder, values, space, *options)
        with atomic_path(folder / "images.parquet") as temporary:
            images.to_parquet(temporary, index=False)
        spec = {
            **self.encoder.spec(),
            **more_spec,
            "taken_over": int((old_rows >= 0).sum()),
            "failed": collected.failed,
        }
        write_spec(folder, spec, len(images), self.encoder.dim)


# --- several processes ---


def is_worked_on(working: Path) -> Callable[[], bool]:
    """Whether the process that began a run still holds its lock."""
    return partial(is_held, working.with_name(f"{working.name.removesuffix('.partial')}.lock"))


def wait_until(there: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Wait for the first process.

    Raises:
        UserError: it has not been running for a minute.
    """
    seen = time.monotonic()
    while not there():
        if alive():
            seen = time.monotonic()
        elif time.monotonic() - seen > _PATIENCE_S:
            raise UserError(
                "embedding: the first process did not start or did not finish; see its output for the cause"
            )
        time.sleep(0.1)


def _report(sentence: str) -> None:
    print(f"embedding: {sentence}", file=sys.stderr, flush=True)
