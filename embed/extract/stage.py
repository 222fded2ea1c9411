"""Stage `embed` of a study: writes `vectors.npy`, `images.parquet`, `spec.json` and the index into a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from pellucid.cohort.progress import is_first_process
from pellucid.cohort.runs import RunFolder, begin_run, join_run, open_finished
from pellucid.cohort.study import Study
from pellucid.embed.backbones.backbone import backbone_slug
from pellucid.embed.backbones.view_averaging import refuse_flip
from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.extract.image_sources import study_source
from pellucid.embed.extract.job import Extraction, is_worked_on
from pellucid.embed.extract.reused_vectors import earlier_stores
from pellucid.embed.extract.workers import BackboneRequest
from pellucid.embed.store.catalogue import WITHOUT_TEXT


def embed(study: Study, scan: RunFolder, backbone: str, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Vectors of every usable image of a study; under torchrun several processes share the work.

    Args:
        study: its `embed:` section is used.
        scan: its finished scan.
        backbone: a name that `pellucid.embed.backbones.backbone.load_backbone` accepts.
        device: auto (as in the section), cpu, cuda or cuda:N.

    Raises:
        UserError: the backbone is not available, mirror images must not be averaged in this specialty, or workers keep
            dying.
    """
    config = study.section("embed", EmbedConfig)
    refuse_flip(study.config.specialty, config.average)
    request = BackboneRequest.from_config(backbone, config, device)
    encoder = request.load()
    if config.text == "mask":
        encoder = replace(encoder, name=f"{encoder.name}{WITHOUT_TEXT}", location=encoder.location or encoder.name)
    batch_size = config.batch_size_for(encoder)
    text = {} if config.text == "keep" else {"text": config.text}
    parents = [scan]
    if backbone.startswith("run:") and (Path(backbone[4:]) / "run.json").is_file():
        parents.append(open_finished(Path(backbone[4:]).resolve()))
    key = {
        "backbone": encoder.name,
        **encoder.readout.model_dump(),
        "source": config.source,
        **text,
        **({} if config.precision == "auto" else {"precision": config.precision}),
        "batch_size": batch_size,
        "index": config.index.model_dump(),
    }
    inputs = {"weights": encoder.fingerprint, "space": encoder.space}
    begin = begin_run if is_first_process() else join_run
    with begin(study.analysis, "embed", backbone_slug(encoder.name), key, parents, inputs) as run:
        if run.done:
            return run
        source, images = study_source(config.source, scan.path, study.image_root, encoder.size_px, config.text)
        chunk_folder = run.path / "parts"
        extraction = Extraction(chunk_folder, source, request, encoder, batch_size, config.workers, progress)
        made_from = {"key": run.key}
        if not is_first_process():
            working = run.path  # renamed when the run is finished
            extraction.run_as_helper(
                made_from, is_worked_on(working), lambda: not working.exists() or (working / "spec.json").exists()
            )
        else:
            stores = earlier_stores(study.analysis, encoder.space, config.precision, encoder.readout.tokens)
            by_id = images.set_index("image_id")

            def describe(rows: pd.DataFrame) -> pd.DataFrame:
                return by_id.loc[rows["image_id"]].reset_index().assign(content=rows["content"].to_numpy())

            more_spec = {"read_from": config.source, **text}
            extraction.run_as_first(run.path, made_from, stores, describe, more_spec, config.index)
    return run
