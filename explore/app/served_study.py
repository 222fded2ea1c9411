"""The study that this process serves: set by the server, read by its pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServedStudy:
    """`study.yaml` and the `key=value` that override it."""

    path: Path
    overrides: tuple[str, ...] = ()


_served: list[ServedStudy] = []


def serve_study(study: ServedStudy | None) -> None:
    """Let the pages of this process show a study, or none."""
    _served[:] = [] if study is None else [study]


def served_study() -> ServedStudy | None:
    """The study to show; None if Streamlit was started by hand, without the gate."""
    return _served[0] if _served else None
