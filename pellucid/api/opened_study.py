"""Open what a command works on: the study, its current scan and, where needed, the vectors of one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder
from pellucid.cohort.scan import current_scan
from pellucid.cohort.study import Study, load_study

StudyOrPath = Study | str | Path


@dataclass(frozen=True)
class Opened:
    """A study with its current scan and, if asked for, the vectors of one backbone."""

    study: Study
    scan: RunFolder
    vectors: RunFolder | None = None

    @property
    def embedded(self) -> RunFolder:
        """The vectors, where `open_study` was called with `with_vectors`."""
        assert self.vectors is not None, "open_study needs with_vectors=True"
        return self.vectors


def load(study: StudyOrPath, overrides: Sequence[str] = (), config: Path | None = None) -> Study:
    """A study from its path; a loaded study is returned unchanged.

    Raises:
        UserError: mistakes in study.yaml, or overrides for a study that is already loaded.
    """
    if not isinstance(study, Study):
        return load_study(Path(study), overrides, config)
    if overrides or config is not None:
        raise UserError(f"{study.path}: this study is already loaded; pass overrides and config to load_study")
    return study


def open_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    config: Path | None = None,
    *,
    backbone: str | None = None,
    with_vectors: bool = False,
) -> Opened:
    """Load a study and find its current scan and vectors.

    Args:
        study: a loaded study, `study.yaml`, or the folder that holds it.
        overrides: `key=value` pairs that replace keys of study.yaml.
        config: YAML file with keys that replace those of study.yaml.
        backbone: whose vectors; None: the study's own backbone if it has one.
        with_vectors: also find the vectors.

    Raises:
        UserError: mistakes in study.yaml; no scan, or an outdated one; no vectors of this backbone.
    """
    loaded = load(study, overrides, config)
    scanned = current_scan(loaded)
    if not with_vectors:
        return Opened(loaded, scanned)
    from pellucid.embed.store import choose_vectors  # loads FAISS

    return Opened(loaded, scanned, choose_vectors(loaded.analysis, scanned, backbone))
