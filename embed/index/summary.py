"""One sentence on how a store is searched, for `pellucid status`."""

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
    """How vectors are searched, and the share of true neighbours that a search finds."""
    text = _WORDS[record["kind"]].format(**record)
    if record["kind"] != "exact":
        text += f", {record['factor']} times as many candidates re-ranked by exact cosines" * (record["factor"] > 1)
        text += (
            f": finds {record['recall_at_20']:.1%} (± {1.96 * record['recall_error']:.1%}) of the true 20 nearest, "
            f"measured on {record['recall_queries']} of these vectors"
        )
        if not record["recall_reached"]:
            text += (
                f"; less than the {record['recall_wanted']:.1%} required: set embed.index.kind=exact, or allow "
                "more memory"
            )
    if record.get("instead"):
        text += f" ({record['instead']})"
    return f"{text}; {record['bytes'] / 1e6:,.1f} MB, built in {record['build_s']:.1f} s"


def stored_sentence(folder: Path) -> str:
    """The sentence for a finished store; empty for a store of the first version, which has no record of its index."""
    try:
        record = read_record(folder)
    except UserError as error:
        return str(error)
    return index_sentence(record) if record else ""
