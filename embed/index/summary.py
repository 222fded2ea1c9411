"""How a store is searched, in one sentence: for `pellucid status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pellucid.cohort.errors import UserError
from pellucid.embed.index.index_files import read_record

_WORDS = {
    "exact": "exact search of all {n:,} vectors",
    "ivf-sq8": "{nprobe} of {lists:,} inverted lists of 8-bit codes",
    "ivf-pq": "{nprobe} of {lists:,} inverted lists of 4-bit codes",
}


def index_sentence(record: dict[str, Any]) -> str:
    """One sentence for `pellucid status`: how vectors are searched, and what share of the true neighbours that finds."""
    said = _WORDS[record["kind"]].format(**record)
    if record["kind"] != "exact":
        said += f", candidates {record['factor']} times over re-ranked by their exact cosines" * (record["factor"] > 1)
        said += (
            f": finds {record['recall_at_20']:.1%} (± {1.96 * record['recall_error']:.1%}) of the true 20 nearest, on "
            f"{record['recall_queries']} of these vectors"
        )
        if not record["recall_reached"]:
            said += f"; {record['recall_wanted']:.1%} were wanted: set embed.index.kind=exact, or allow more memory"
    if record.get("instead"):
        said += f" ({record['instead']})"
    return f"{said}; {record['bytes'] / 1e6:,.1f} MB, made in {record['build_s']:.1f} s"


def stored_sentence(folder: Path) -> str:
    """That of a finished store; empty for one of the first version, which has no record of its index."""
    try:
        record = read_record(folder)
    except UserError as error:
        return str(error)
    return index_sentence(record) if record else ""
