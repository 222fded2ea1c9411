"""Names of a training's log files, and reading and appending their lines (one JSON object per line)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path

METRICS, WATCH_LINES, TIMINGS, RESUMED = "metrics.jsonl", "watch.jsonl", "timings.jsonl", "resumed.jsonl"
PAGE = "training.html"


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one line of JSON.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Free disk space and rerun the command: it continues from "
            "the newest checkpoint"
        ) from None


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the complete lines up to `step`; a resumed training writes the later ones again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # incomplete: the process was killed while writing it
            continue
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; empty if it does not exist. Lines left incomplete by a killed process are skipped."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
