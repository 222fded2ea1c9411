"""Filters: parsed, never executed; missing values; messages for what cannot be met."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.embed.search.filters import allowed_rows, parse_filter

N = 240


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    i = np.arange(N)
    age = np.where(i % 10 == 0, np.nan, 20.0 + i % 60)
    device = np.array(["A", "B", "C"], dtype=object)[i % 3]
    frame = pd.DataFrame(
        {"image_id": [f"i{k}.png" for k in i], "device": device, "age": age, "grade": i % 4, "urgent": i % 2 == 0}
    )
    return frame.sample(frac=1, random_state=0)  # a manifest may stand in another order


def test_filters_are_read_not_run(table: pd.DataFrame) -> None:
    frame = table.sort_values("image_id", key=lambda s: s.str[1:-4].astype(int)).reset_index(drop=True)

    def rows(*where: str) -> list[int]:
        return np.flatnonzero(allowed_rows(frame, where)).tolist()

    assert rows("grade=2") == rows("grade=2.0") == list(range(2, N, 4))
    assert rows("grade!=2", "device=A") == [i for i in range(0, N, 3) if i % 4 != 2]
    assert rows("age=") == list(range(0, N, 10))
    assert 0 not in rows("age<1000"), "what is not known is not under 1000"
    assert rows("urgent=True") == rows("urgent=true") == list(range(0, N, 2))
    assert rows(" age >= 79 ") == [59, 119, 179, 239]
    assert parse_filter("note=a=b").value == "a=b"
    for text, message in (
        ("devise=A", r"unknown column `devise`; did you mean `device`\?"),
        ("device=D", r"no image has `device` = `D`.*available: A, B, C"),
        ("device>3", "`device` contains no numbers: use = or !="),
        ("age>old", "`old` is not a number"),
        ("__import__('os')", "write column=value"),
        ("=3", "write column=value"),
    ):
        with pytest.raises(UserError, match=message):
            rows(text)
