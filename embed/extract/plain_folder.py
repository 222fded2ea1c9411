"""Embed a folder without a study; bring it up to date."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pellucid.cohort.config import read_yaml, validate
from pellucid.cohort.errors import UserError
from pellucid.cohort.intake import list_folder
from pellucid.cohort.progress import is_first_process
from pellucid.cohort.runs import exclusive, is_held
from pellucid.cohort.withdrawal_list import Withdrawn
from pellucid.embed.extract.image_sources import FileSource, folder_source
from pellucid.embed.extract.job import (
    EmbedConfig,
    Extraction,
    batch_size_for,
    own_device,
    refuse_another_type,
    wait_until,
)
from pellucid.embed.extract.reused_vectors import (
    is_usable,
)
from pellucid.embed.extract.workers import Named
from pellucid.embed.index import IndexConfig
from pellucid.embed.store.snapshots import (
    LOCK,
    PARTS,
    WITHDRAWN,
    is_ours,
    making,
    publish,
    tidy,
)
from pellucid.embed.store.vectors import Vectors, load_vectors


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
    named = Named(
        backbone, own_device(config.device if device == "auto" else device), config.reading(), config.precision
    )
    encoder = named.load()
    batch_size = config.batch_size or batch_size_for(encoder)
    if not is_ours(out):
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
        "tokens": encoder.reading.tokens,
    }
    work = Extraction(out / PARTS, source, named, encoder, batch_size, config.workers, progress)

    def finished() -> dict[str, Any] | None:
        store = _store(out)
        refuse_another_type(store, encoder.space, config.precision)
        return store.spec if store and all(store.spec.get(k) == v for k, v in wanted.items()) else None

    if not is_first_process():
        alive = partial(is_held, out / LOCK)
        work.help(made_from, alive, lambda: finished() is not None)
        wait_until(lambda: finished() is not None, alive)
    else:
        with exclusive(out / LOCK, str(out)):
            if finished() is None:
                _bring_up_to_date(work, out, source, made_from, wanted, config.index)
            tidy(out)
    spec = finished()
    assert spec is not None
    return out, [(f["image_id"], f["reason"]) for f in spec["failed"]]


def _bring_up_to_date(
    work: Extraction,
    out: Path,
    source: FileSource,
    made_from: dict[str, Any],
    wanted: dict[str, str],
    index: IndexConfig,
) -> None:
    store = _store(out)
    if store is not None and store.space != wanted["space"]:
        raise UserError(f"{out}: holds vectors of another backbone or folder; choose another --out")
    usable = store is not None and is_usable(store, wanted["space"], made_from["precision"], made_from["tokens"])
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
