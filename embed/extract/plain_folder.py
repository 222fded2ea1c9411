"""Embed a folder without a study, and bring its vectors up to date."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pellucid.cohort.config import read_yaml, validate
from pellucid.cohort.errors import UserError
from pellucid.cohort.intake import list_folder, start_ahead
from pellucid.cohort.progress import is_first_process
from pellucid.cohort.runs import exclusive, is_held
from pellucid.cohort.runs.private_files import writes_privately
from pellucid.cohort.withdrawal_list import Withdrawn
from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.extract.image_sources import FileSource, folder_source
from pellucid.embed.extract.job import Extraction, wait_until
from pellucid.embed.extract.reused_vectors import is_usable
from pellucid.embed.extract.workers import BackboneRequest
from pellucid.embed.index import IndexConfig
from pellucid.embed.store.snapshots import CHUNKS, LOCK, WITHDRAWN, is_store_or_empty, new_version, publish, tidy
from pellucid.embed.store.vectors import Vectors, load_vectors


@writes_privately("out")
def embed_folder(
    folder: Path, backbone: str, out: Path, *, device: str = "auto", progress: bool = True, **options: Any
) -> tuple[Path, list[tuple[str, str]]]:
    """Vectors of a plain folder, without a study; every file counts as one patient.

    Call it again after files were added, changed or removed: it brings `out` up to date and computes only what is new.
    Until it has finished, `out` keeps its old content.

    Args:
        folder: all image files in it and its subfolders are embedded.
        backbone: a name that `load_backbone` accepts.
        out: the folder of the vector store: new, empty, or written by an earlier call.
        device: auto, cpu, cuda or cuda:N.
        options: keys of the `embed:` section, for example pooling="mean" or batch_size=32.

    Returns:
        `out`, and (image_id, reason) of each picture without a vector.

    Raises:
        UserError: `out` contains something else, or there is nothing to embed.
    """
    config = validate(EmbedConfig, options, "embed_folder")
    start_ahead()
    request = BackboneRequest.from_config(backbone, config, device)
    encoder = request.load()
    batch_size = config.batch_size_for(encoder)
    if not is_store_or_empty(out):
        raise UserError(f"{out}: is not empty; choose another --out")
    withdrawn = Withdrawn.load(out / WITHDRAWN)
    listing = list_folder(folder, out, withdrawn)
    source = folder_source(listing, withdrawn)
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"space": encoder.space, "source": listing.fingerprint}
    made_from = {
        **wanted,
        "precision": config.precision,
        "batch_size": batch_size,
        "tokens": encoder.readout.tokens,
    }
    extraction = Extraction(out / CHUNKS, source, request, encoder, batch_size, config.workers, progress)

    def finished() -> dict[str, Any] | None:
        store = _load_store(out)
        _refuse_other_number_type(store, encoder.space, config.precision)
        return store.spec if store and all(store.spec.get(k) == v for k, v in wanted.items()) else None

    if not is_first_process():
        alive = partial(is_held, out / LOCK)
        extraction.run_as_helper(made_from, alive, lambda: finished() is not None)
        wait_until(lambda: finished() is not None, alive)
    else:
        with exclusive(out / LOCK, str(out)):
            if finished() is None:
                _bring_up_to_date(extraction, out, source, made_from, wanted, config.index)
            tidy(out)
    spec = finished()
    assert spec is not None
    return out, [(f["image_id"], f["reason"]) for f in spec["failed"]]


def _bring_up_to_date(
    extraction: Extraction,
    out: Path,
    source: FileSource,
    made_from: dict[str, Any],
    wanted: dict[str, str],
    index: IndexConfig,
) -> None:
    store = _load_store(out)
    if store is not None and store.space != wanted["space"]:
        raise UserError(f"{out}: contains vectors of another backbone or folder; choose another --out")
    usable = store is not None and is_usable(store, wanted["space"], made_from["precision"], made_from["tokens"])
    stores = [store] if store is not None and usable else []
    if store is not None and not usable and not set(store.images["image_id"].astype(str)) & set(source.units):
        raise UserError(f"{out}: contains vectors of another backbone or folder; choose another --out")

    def describe(rows: pd.DataFrame) -> pd.DataFrame:
        files = pd.Series(source.units, dtype=object).loc[rows["unit"]].to_numpy()
        columns = {"image_id": rows["image_id"], "patient": files, "split": "", "content": rows["content"]}
        return pd.DataFrame(columns).reset_index(drop=True)

    version = new_version(out)
    more_spec = {"read_from": "folder", **wanted}
    extraction.run_as_first(version, made_from, stores, describe, more_spec, index, must_share=True)
    publish(out, f"{time.time_ns():x}")


def _refuse_other_number_type(store: Vectors | None, space: str, requested: str) -> None:
    """All vectors of a store have one number type."""
    if store is None or store.space != space or requested == "auto" or store.spec.get("computed_in") == requested:
        return
    stored = store.spec.get("computed_in")
    raise UserError(
        f"{store.folder}: its vectors were computed in {stored}, but embed.precision={requested} was given: omit "
        f"embed.precision (new images are then computed in {stored}), or choose another --out"
    )


def _load_store(out: Path) -> Vectors | None:
    """The store in a folder; None if there is none, or a damaged one, which will be replaced."""
    if not (out / "spec.json").is_file():
        return None
    try:
        return load_vectors(out)
    except UserError as error:
        if "has schema" in str(error):  # written by a later version: never overwritten
            raise
        return None


def folder_options(overrides: Sequence[str]) -> dict[str, Any]:
    """`embed.pooling=mean …` from the command line, as the `options` of `embed_folder`.

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
            f"`{other[0]}`: for a plain folder, only keys of `embed:` are allowed, for example "
            f"embed.batch_size=32{hint}"
        )
    options = given.get("embed", {})
    return dict(options) if isinstance(options, dict) else {"embed": options}
