"""What a training tells of itself: files of one JSON object a line, and the page that is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path

METRICS, WATCH_LINES, TIMINGS, RESUMED = "metrics.jsonl", "watch.jsonl", "timings.jsonl", "resumed.jsonl"
PAGE = "training.html"


def append_line(path: Path, content: dict[str, Any]) -> None:
    """One line of JSON.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Make room on the disk and repeat the command: it continues from "
            "the newest checkpoint"
        ) from None


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the whole lines of metrics up to `step`; what a killed process wrote beyond it is written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # torn by the kill
            continue
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that may not be there yet; one that a kill has torn is passed over."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
