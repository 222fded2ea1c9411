"""The patient in an image's path by a regular expression of study.yaml, within a time limit.

An expression with a repeat inside a repeat, such as `(a|aa)+$`, may need years for one path, and study.yaml may come
from somebody else. The module `regex` (Apache-2.0) stops at a time limit; `re` cannot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import regex

from pellucid.cohort.errors import UserError

TIME_LIMIT_S = 1.0  # for one path; a path of 200 characters needs a few microseconds
USUAL_S, SLOWEST_S = 60.0, 1e-3  # for all paths together: a minute, and a millisecond for each path
LONGEST = 1000  # characters of an expression


def compiled(pattern: str) -> regex.Pattern[str]:
    """The expression, ready to search.

    Raises:
        ValueError: it is not a regular expression with exactly one group, or is too long.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"has {len(pattern)} characters, more than {LONGEST}")
    try:
        found = regex.compile(pattern)
    except (regex.error, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"not a regular expression ({error})") from None
    if found.groups != 1:
        raise ValueError(f"needs exactly one group in parentheses, has {found.groups}")
    return found


def patients_in_paths(pattern: str, paths: Sequence[str], usual_s: float = USUAL_S) -> list[str | None]:
    """What the group matches in each path; None where the expression does not fit, or the group is empty.

    Raises:
        UserError: the expression needs more than a second for one path, or more than a minute and a millisecond for
            each path for all.
    """
    search = compiled(pattern).search
    found = []
    end = time.monotonic() + usual_s + SLOWEST_S * len(paths)
    for path in paths:
        left = end - time.monotonic()
        try:
            match = search(path, timeout=max(1e-3, min(TIME_LIMIT_S, left)))
        except (TimeoutError, MemoryError):
            what = f"more than {TIME_LIMIT_S:g} s for the path `{path}`"
            if left < TIME_LIMIT_S:
                what = f"more than {usual_s + SLOWEST_S * len(paths):.0f} s for {len(paths)} paths (now: `{path}`)"
            raise UserError(
                f"study.yaml: patient: {{from_path: {pattern[:200]!r}}} needs {what}: write it without a repeat "
                "inside a repeat, for example '^([^/]+)/'"
            ) from None
        found.append((match.group(1) or None) if match else None)
    return found
