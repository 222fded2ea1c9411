"""The patient in an image's path by a regular expression of study.yaml, within a time limit.

An expression with a repeat inside a repeat, such as `(a|aa)+$`, may need years for one path, and study.yaml may come
from somebody else. The module `regex` (Apache-2.0) stops at a time limit; `re` cannot.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

from pellucid.cohort.errors import UserError

TIME_LIMIT_S = 1.0  # for one path; a path of 200 characters needs a few microseconds
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


def patients_in_paths(pattern: str, paths: Iterable[str]) -> list[str | None]:
    """What the group matches in each path; None where the expression does not fit, or the group is empty.

    Raises:
        UserError: the expression needs more than a second for one path.
    """
    search = compiled(pattern).search
    found = []
    for path in paths:
        try:
            match = search(path, timeout=TIME_LIMIT_S)
        except (TimeoutError, MemoryError):
            raise UserError(
                f"study.yaml: patient: {{from_path: {pattern[:200]!r}}} needs more than {TIME_LIMIT_S:g} s for the "
                f"path `{path}`: write it without a repeat inside a repeat, for example '^([^/]+)/'"
            ) from None
        found.append((match.group(1) or None) if match else None)
    return found
