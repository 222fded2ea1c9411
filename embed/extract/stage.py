"""Stage `embed` of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from pellucid.cohort.progress import is_first_process
from pellucid.cohort.runs import RunFolder, begin_run, join_run, open_finished
from pellucid.cohort.study import Study
from pellucid.embed.backbones.backbone import slug
from pellucid.embed.backbones.view_averaging import refuse_flip
from pellucid.embed.extract.image_sources import study_source
from pellucid.embed.extract.job import (
    EmbedConfig,
    Extraction,
    batch_size_for,
    is_worked_on,
    own_device,
)
from pellucid.embed.extract.reused_vectors import (
    earlier_stores,
)
from pellucid.embed.extract.workers import Named
from pellucid.embed.store.catalogue import WITHOUT_TEXT


def embed(study: Study, scan: RunFolder, backbone: str, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Vectors of every usable image of a study; under torchrun several processes share the work.

    Args:
        study: whose `embed:` section is used.
        scan: its finished scan.
        backbone: a name that `pellucid.embed.backbones.backbone.load_backbone` knows.
        device: auto (what the section says), cpu or cuda.

    Raises:
        UserError: the backbone cannot be had, mirror images are not to be averaged in this specialty, or workers keep dying.
    """
    config = study.section("embed", EmbedConfig)
    refuse_flip(study.config.specialty, config.average)
    named = Named(
        backbone, own_device(config.device if device == "auto" else device), config.reading(), config.precision
    )
    encoder = named.load()
    if config.text == "mask":
        encoder = replace(encoder, name=f"{encoder.name}{WITHOUT_TEXT}", location=encoder.location or encoder.name)
    batch_size = config.batch_size or batch_size_for(encoder)
    parents = [scan]
    if backbone.startswith("run:") and (Path(backbone[4:]) / "run.json").is_file():
        parents.append(open_finished(Path(backbone[4:]).resolve()))
    key = {
        "backbone": encoder.name,
        **encoder.reading.model_dump(),
        "source": config.source,
        **({} if config.text == "keep" else {"text": config.text}),
        **({} if config.precision == "auto" else {"precision": config.precision}),
        "batch_size": batch_size,
        "index": config.index.model_dump(),
    }
    inputs = {"weights": encoder.fingerprint, "space": encoder.space}
    begin = begin_run if is_first_process() else join_run
    with begin(study.analysis, "embed", slug(encoder.name), key, parents, inputs) as run:
        if run.done:
            return run
        source, images = study_source(config.source, scan.path, study.image_root, encoder.size_px, config.text)
        work = Extraction(run.path / "parts", source, named, encoder, batch_size, config.workers, progress)
        made_from = {"key": run.key}
        if not is_first_process():
            there = run.path  # it is renamed once all is done
            work.help(made_from, is_worked_on(there), lambda: not there.exists() or (there / "spec.json").exists())
        else:
            stores = earlier_stores(study.analysis, encoder.space, config.precision, encoder.reading.tokens)
            by_id = images.set_index("image_id")

            def described(rows: pd.DataFrame) -> pd.DataFrame:
                return by_id.loc[rows["image_id"]].reset_index().assign(content=rows["content"].to_numpy())

            said = {"read_from": config.source, **({} if config.text == "keep" else {"text": config.text})}
            work.do(run.path, made_from, stores, described, said, config.index)
    return run
