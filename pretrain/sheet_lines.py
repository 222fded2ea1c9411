"""Names and lines of what a training writes for people to look at; light enough for the report to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WATCH_LINES = "watch.jsonl"
PAGE = "training.html"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; [] if there is no such file. A line that a kill has torn is passed over."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
