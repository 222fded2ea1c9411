"""A patient's withdrawal from pretrain runs: weights are kept and marked; images on the training page are removed.

Weights cannot unlearn an image. `preprocess.json` and the model card therefore state how many images of withdrawn
patients the weights were trained on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, atomic_path, edit_folder, forgotten, knows, parent_of, write_json
from pellucid.cohort.withdrawal_list import Withdrawal, Withdrawn
from pellucid.pretrain.export.model_card import model_card
from pellucid.pretrain.monitor.jsonl_logs import PAGE

# A strip of images in training.html, as written by monitor/templates/training.html.j2.
_STRIP = re.compile(r'<section>\s*<h2>(?:(?!</section>).)*?<table class="strip.*?</section>', re.DOTALL)
_PICTURE = "data:image/"


def trained_on(run: RunFolder, withdrawn: Withdrawn) -> int:
    """Number of withdrawn images that a `pretrain` run used, at most: some may only have been monitored."""
    try:
        scan = parent_of(run.path, "scan")
        columns = ["image_id", "file", "status", "split"]
        manifest = pd.read_parquet(scan / "manifest.parquet", columns=columns)
    except (UserError, OSError):  # the scan no longer exists, so the patients are unknown
        return 0
    splits = run.record["config"].get("splits", ["train"])
    seen = manifest[(manifest["status"] == "ok") & manifest["split"].isin(splits)]
    return int(withdrawn.which_files(seen["file"].tolist(), seen["image_id"].tolist()).sum())


def forget_in_training(run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path:
    """Mark the weights of a finished run and remove the images from its page; returns the folder."""
    n = trained_on(run, withdrawn)
    if not n or knows(run.record, [entry.name]):
        return run.path

    def build(staged: Path) -> list[str]:
        for path in sorted(run.path.rglob("preprocess.json")):
            spec = json.loads(path.read_text(encoding="utf-8"))
            spec["n_images_withdrawn"] = int(spec.get("n_images_withdrawn", 0)) + n
            target = staged / path.relative_to(run.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_json(target, spec)
            target.with_name("MODEL_CARD.md").write_text(model_card(spec), encoding="utf-8")
        page = run.path / PAGE
        if not page.is_file():
            return []
        text = without_pictures(page.read_text(encoding="utf-8"))
        if text is None:
            return [PAGE]
        (staged / PAGE).write_text(text, encoding="utf-8")
        return []

    return edit_folder(run.path, build, record=forgotten(run.record, entry.name, entry.when, n))


def forget_in_unfinished(folder: Path) -> None:
    """Remove the images from the page of an unfinished training; its checkpoints contain none and are kept."""
    page = folder / PAGE
    if page.is_file():
        text = without_pictures(page.read_text(encoding="utf-8"))
        if text is None:
            page.unlink()
        else:
            with atomic_path(page) as temporary:
                temporary.write_text(text, encoding="utf-8")
    (folder / "failure.json").unlink(missing_ok=True)  # its message may name an image


def without_pictures(page: str) -> str | None:
    """A training page without its strips of images; None if an image remains that is not part of a strip."""
    text = _STRIP.sub("", page)
    return None if _PICTURE in text else text
