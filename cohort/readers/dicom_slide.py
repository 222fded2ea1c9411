"""Whole slides stored as DICOM: the file of the full resolution stands for its series, OpenSlide reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pellucid.cohort.readers.dicom_header import dicom_header, header_findings
from pellucid.cohort.readers.picture import NoPicture, Picture, Source, UnreadableImage


def read_dicom_slide(source: Source, dataset: Any) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """The tiles of a VL Whole Slide Microscopy image.

    A series holds a file for each level, and for label and overview. OpenSlide reads the whole series from any of its
    files, so only that of the full resolution is read: the others would give the same tiles again.

    Raises:
        NoPicture: it is another level, or the label or overview (they carry names).
    """
    from pellucid.cohort.readers.whole_slide import read_slide

    try:
        kinds = dataset.get("ImageType") or ()
        kinds = {str(kind).upper() for kind in ([kinds] if isinstance(kinds, str) else kinds)}
        facts, findings = dicom_header(dataset), header_findings(dataset)
    except Exception:  # pydicom raises whatever it likes on a damaged element
        raise UnreadableImage("a whole slide as DICOM with a damaged header") from None
    if kinds & {"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"}:
        raise NoPicture("the label, overview or thumbnail of a whole slide, which is not read")
    if "RESAMPLED" in kinds:
        raise NoPicture("a lower resolution of a whole slide: it is read with the file of the full resolution")
    for label, picture in read_slide(source, "DICOM"):
        if isinstance(picture, Picture):
            picture = replace(picture, header={**picture.header, **facts}, findings=findings)
        yield label, picture
