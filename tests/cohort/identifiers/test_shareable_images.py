"""Images with signs of text or of a face are not shown in pages that may be shared."""

from __future__ import annotations

import pandas as pd
import pytest

from pellucid.cohort.identifiers import shareable


@pytest.mark.parametrize(
    ("text_like", "findings", "allowed"),
    [
        (False, "", True),
        (True, "", False),
        (None, "", False),  # an unreadable file has no answer
        (False, "burned_in_text", False),
        (False, "dicom_name face", False),
        (False, "dicom_burned_in_flag", False),
        (False, "dicom_name dicom_id", True),  # in the header, not in the picture
        (False, None, True),
    ],
)
def test_findings_in_the_picture_count(text_like: bool | None, findings: str | None, allowed: bool) -> None:
    rows = pd.DataFrame({"text_like": [text_like, False], "findings": [findings, ""]}, index=[7, 3])
    found = shareable(rows)
    assert found.index.tolist() == [7, 3]
    assert found.tolist() == [allowed, True]
    assert found.dtype == bool


def test_nothing_is_shown_where_nobody_has_looked() -> None:
    assert shareable(pd.DataFrame({"image_id": ["a", "b"]})).tolist() == [False, False]
