"""Which images may be shown in a page or file that leaves the machine: none with signs of text or of a face."""

from __future__ import annotations

import pandas as pd

# Findings in the pixels (`findings` of the manifest). Those of the header are not in a picture.
PICTURE_FINDINGS = frozenset({"burned_in_text", "dicom_burned_in_flag", "face"})


def shareable(manifest: pd.DataFrame) -> pd.Series:
    """Whether each image may be shown in a report, a training page or an export.

    Args:
        manifest: rows of manifest.parquet.

    Returns:
        bool, one per row, with the index of `manifest`; False where no scan has looked for text.
    """
    if "text_like" not in manifest:
        return pd.Series(False, index=manifest.index)
    allowed = ~manifest["text_like"].astype("boolean").fillna(True).astype(bool)
    if "findings" in manifest:
        found = manifest["findings"].fillna("").astype(str).str.split()
        allowed &= ~found.map(lambda words: bool(PICTURE_FINDINGS.intersection(words))).astype(bool)
    return allowed
