"""Whether two versions of the code give the same results for the same study: compare its `analysis` folders file by
file.

    python -m benchmarks.same_results BEFORE AFTER [--allow PATTERN …]

Run the study once with each version, into two folders (`pellucid run STUDY analysis=BEFORE`), with the same number type
(`PELLUCID_PRECISION=float32`). Compared are, of the newest run of each stage and backbone: vectors and all other arrays
(exactly), every column of every table, and every number (to 12 digits), truth value and identifier in every JSON file.
Sentences are counted, not compared: their wording may change. Paths, times, versions, hashes of runs and file sizes are
left out. Each difference is printed; the exit code is 1 if there is one that no `--allow` pattern (a regular
expression on `stage/file: key`) names.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PROVENANCE = {"run.json", "config.yaml", "SHA256SUMS", "timings.jsonl", "spec.json", "compute.json"}
HASH = re.compile(r"-[0-9a-f]{8}(?=$|[^0-9a-z])")
LEFT_OUT = re.compile(
    r"(^|\.)(path|location|started|ended|key|sha256|versions|made_with|seconds|compute|schema|run|runs|scan|build_s)(\.|$|\[)"
)


def newest(analysis: Path) -> dict[str, Path]:
    """The newest run folder of each stage and name, by `stage/name` without the hash."""
    found: dict[str, tuple[str, Path]] = {}
    for record in sorted(analysis.glob("*/*/run.json")):
        said = json.loads(record.read_text(encoding="utf-8"))
        name = re.sub(r"-[0-9a-f]{8}(?=-|$)", "", record.parent.name)
        name = f"{said['stage']}/{name}"
        if name not in found or said["ended"] > found[name][0]:
            found[name] = (said["ended"], record.parent)
    return {name: folder for name, (_, folder) in found.items()}


def leaves(content: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON document with its dotted key, without the hashes in names of runs."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{at}.{HASH.sub('', key)}" if at else HASH.sub("", str(key)))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from leaves(value, f"{at}[{number}]")
    else:
        yield at, HASH.sub("", content) if isinstance(content, str) else content


def same(left: Any, right: Any) -> bool:
    """Equal; numbers up to the rounding of sums in another order."""
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-12) or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


def is_sentence(value: Any) -> bool:
    return isinstance(value, str) and " " in value


def compare_json(before: Path, after: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    pair = [dict(leaves(json.loads(path.read_text(encoding="utf-8")))) for path in (before, after)]
    for key in sorted(pair[0].keys() | pair[1].keys()):
        if LEFT_OUT.search(key):
            continue
        left, right = (side.get(key, "(missing)") for side in pair)
        if is_sentence(left) and is_sentence(right):
            counts["sentences"] += 1
        elif not same(left, right):
            yield key, f"{left!r} → {right!r}"
        else:
            counts["values"] += 1


def compare_tables(before: Path, after: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    left, right = pd.read_parquet(before), pd.read_parquet(after)
    if list(left.columns) != list(right.columns) or len(left) != len(right):
        yield "shape", f"{left.shape} {list(left.columns)} → {right.shape} {list(right.columns)}"
        return
    for name in left.columns:
        if name in {"read_seconds", "seconds"}:
            continue
        if left[name].equals(right[name]):
            counts["columns"] += 1
        else:
            yield name, f"{int((left[name].astype(str) != right[name].astype(str)).sum())} of {len(left)} rows differ"


def compare_arrays(before: Path, after: Path, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    left, right = np.load(before), np.load(after)
    if left.shape != right.shape:
        yield "shape", f"{left.shape} → {right.shape}"
    elif not np.array_equal(left, right, equal_nan=True):
        yield "values", f"largest difference {np.abs(left.astype(float) - right).max():.3g}"
    else:
        counts["arrays"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--allow", nargs="*", default=[], help="regular expressions of intended differences")
    chosen = parser.parse_args()
    sides = newest(chosen.before), newest(chosen.after)
    counts: Counter[str] = Counter()
    found: list[tuple[str, str]] = [(name, "only on one side") for name in sorted(sides[0].keys() ^ sides[1].keys())]
    kinds = {".json": compare_json, ".parquet": compare_tables, ".npy": compare_arrays}
    for name in sorted(sides[0].keys() & sides[1].keys()):
        files = [{p.relative_to(side[name]).as_posix() for p in side[name].rglob("*") if p.is_file()} for side in sides]
        found += [(f"{name}/{file}", "only on one side") for file in sorted(files[0] ^ files[1])]
        for file in sorted(files[0] & files[1]):
            kind = kinds.get(Path(file).suffix)
            if kind is None or Path(file).name in PROVENANCE:
                continue
            counts["files"] += 1
            for key, what in kind(sides[0][name] / file, sides[1][name] / file, counts):
                found.append((f"{name}/{file}: {key}", what))
    unintended = [(where, what) for where, what in found if not any(re.search(p, where) for p in chosen.allow)]
    for where, what in found:
        print(f"{'DIFFERS' if (where, what) in unintended else 'intended'}  {where}: {what}")
    print(
        f"compared: {', '.join(f'{n:,} {what}' for what, n in counts.items())}; {len(found)} differences, "
        f"{len(unintended)} not intended"
    )
    sys.exit(bool(unintended))


if __name__ == "__main__":
    main()
