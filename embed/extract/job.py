"""`embed`: images → vectors and index under one frozen backbone, resumable part by part; old vectors serve again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
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

from pellucid.cohort.errors import UserError
from pellucid.cohort.progress import cores_per_process, is_first_process, track
from pellucid.cohort.runs import atomic_path, clear_parts, is_held, write_json
from pellucid.embed.backbones.backbone import Backbone
from pellucid.embed.backbones.compute_choice import Compute, Precision
from pellucid.embed.backbones.readout import Reading
from pellucid.embed.extract.chunks import (
    Job,
    cut,
    done_parts,
    fresh_parts,
    is_fresh,
    read_part,
)
from pellucid.embed.extract.collect import assemble
from pellucid.embed.extract.image_sources import PreparedSource, Source
from pellucid.embed.extract.reused_vectors import (
    COLUMNS,
    contents,
    each_once,
    taken_over,
)
from pellucid.embed.extract.workers import Named, is_on_gpu, run_parts
from pellucid.embed.index import IndexConfig, build_index, extend_index
from pellucid.embed.store.vectors import Vectors, write_spec

BATCH_CPU, BATCH_GPU = 16, 256  # a larger one is no faster on a CPU (benchmarks/LOG.md), and a GPU wants more

_PATIENCE_S = 60.0


class EmbedConfig(Reading):
    """The `embed:` section of study.yaml: what is read off a backbone (`Reading`), and how it is computed."""

    backbones: list[str] = []  # beside those that `run` always adds: pixels, random weights, the pretrained run
    source: Literal["prepared", "originals"] = "prepared"
    batch_size: int = Field(0, ge=0)  # 0: what suits the device
    device: str = "auto"
    precision: Precision = "auto"  # what is fastest here; or float32, bfloat16, float16 (GPU only)
    workers: int = Field(0, ge=0)  # single-threaded processes on a CPU; 0: one a core
    patients: Literal["none", "mean", "medoid", "weighted"] = "none"  # beside the images' vectors, one a patient
    text: Literal["keep", "mask"] = "keep"  # burned-in text of the originals: painted over, to ask what it tells
    index: IndexConfig = IndexConfig()

    def reading(self) -> Reading:
        """Its part that belongs to the backbone."""
        return Reading(**{name: getattr(self, name) for name in Reading.model_fields})


def refuse_another_type(store: Vectors | None, space: str, asked: str) -> None:
    """Vectors of one store are all of one number type."""
    if store is None or store.space != space or asked == "auto" or store.spec.get("computed_in") == asked:
        return
    has = store.spec.get("computed_in")
    raise UserError(
        f"{store.folder}: its vectors were computed in {has}, and {asked} was asked for: leave out embed.precision (the "
        f"folder is then continued in {has}), or choose another --out"
    )


Described = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass
class Extraction:
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
        begun = is_fresh(self.parts, made_from) and (self.parts / "plan.json").is_file()
        if not begun:
            fresh_parts(self.parts, made_from)
            self._plan(stores, related)
        job, taken, earlier = self._planned(stores)
        self._compute_as_planned()
        if begun and done_parts(self.parts):
            _say(f"continued in {self.encoder.computing.precision}, in which it was begun")
        elif earlier is not None and len(job.units):
            kept_in = self.encoder.computing.precision
            _say(f"new images are computed in {kept_in}, as the vectors of {earlier.folder.name} that are kept")
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

        wait_until(lambda: ended() or planned(), alive)
        try:
            todo = np.load(self.parts / "todo.npy")
            self._compute_as_planned()
        except FileNotFoundError:  # it was quicker than we
            return
        self._compute(self._job(todo))

    def _plan(self, stores: list[Vectors], related: bool) -> None:
        """Decide what is taken over from which store; the same after a kill, whatever other stores there are by then."""
        n = len(self.source.units)
        wanted = getattr(self.source, "wanted", None)
        best, chosen = pd.DataFrame(columns=list(COLUMNS)), None
        if stores:
            now = contents(self.source, cores_per_process())
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
        # Vectors of one store are all computed in one way: that of those which are kept, else what is fastest here.
        compute = self.encoder.computing if chosen is None else Compute.of_spec(chosen.spec)
        earlier = None if chosen is None else str(chosen.folder.name)
        write_json(self.parts / "plan.json", {"earlier": earlier, "compute": compute.record()})

    def _compute_as_planned(self) -> None:
        """Every process, and every later call, computes as the first has chosen."""
        plan = json.loads((self.parts / "plan.json").read_text(encoding="utf-8"))
        if "compute" in plan:
            compute = Compute.of(plan["compute"])
            self.encoder, self.named = self.encoder.computed_by(compute), replace(self.named, compute=compute)

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
            shown = self.progress and is_first_process()
            advance = stack.enter_context(track(f"embedding with {self.encoder.name}", len(job.units), "images", shown))
            run_parts(job, self.named, self.encoder, advance, workers=self.workers)


def own_device(device: str) -> str:
    """Under torchrun each process has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or device == "cpu" or not torch.cuda.is_available():
        return device
    torch.cuda.set_device(int(local))
    return device


def batch_size_for(encoder: Backbone) -> int:
    return BATCH_GPU if is_on_gpu(encoder) else BATCH_CPU


def _say(sentence: str) -> None:
    print(f"embedding: {sentence}", file=sys.stderr, flush=True)


def is_worked_on(working: Path) -> Callable[[], bool]:
    """Whether the process that has begun a run still holds it."""
    return partial(is_held, working.with_name(f"{working.name.removesuffix('.partial')}.lock"))


def wait_until(there: Callable[[], bool], alive: Callable[[], bool]) -> None:
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
