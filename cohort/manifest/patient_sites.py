"""One patient id with two sexes or two dates of birth: one person with a mistake, or two people of two sites?"""

from __future__ import annotations

import pandas as pd

from pellucid.cohort.manifest.cell_values import as_ids, as_text
from pellucid.cohort.manifest.column_words import BIRTH, SEX, SITE, speaks_of


def two_sites(table: pd.DataFrame, patient: str) -> str:
    """A question for the user where ids have several sexes or dates of birth; "" where none has.

    Ids are not shown, only rows: the sentence goes into logs.
    """
    ids = as_ids(table[patient])
    known = table[ids.notna().to_numpy()]
    ids = ids[ids.notna()]
    sites = [c for c in table.columns if c != patient and speaks_of(str(c), SITE)]
    for name in (c for c in table.columns if c != patient and (speaks_of(str(c), SEX) or speaks_of(str(c), BIRTH))):
        values = as_text(known[name]).str.casefold()
        several = values.groupby(ids).nunique() > 1
        if not several.any():
            continue
        clash = set(several.index[several])
        split = [c for c in sites if _explains(as_text(known[c]), values, ids, clash)]
        rows = [int(i) + 2 for i in values.index[(ids == ids[ids.isin(clash)].iloc[0]).to_numpy()]]
        other = next(i for i in rows if values[i - 2] != values[rows[0] - 2])
        said = f"{len(clash)} of {ids.nunique()} ids in `{patient}` have several values of `{name}`"
        where = f"(first: rows {rows[0]} and {other})"
        if split:
            return (
                f"{said}, one for each `{split[0]}` {where}: do the sites count from 1 each? Then one id is several "
                f"people: add a column that joins `{split[0]}` and `{patient}` (A-1, B-1), and name it as `patient`"
            )
        return f"{said} {where}: is each id one person? Correct the table, or name another column"
    return ""


def _explains(site: pd.Series, values: pd.Series, ids: pd.Series, clash: set[str]) -> bool:
    """Has each such id one value at each site, for most of them?"""
    rows = ids.isin(clash)
    at_site = values[rows].groupby([ids[rows], site[rows]]).nunique()
    alone = (at_site <= 1).groupby(level=0).all()
    return len(alone) > 0 and 2 * int(alone.sum()) > len(clash)
