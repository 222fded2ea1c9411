"""Before a file is cleaned it is read once as in a scan: in another process, with limits of time and memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pydicom
import tifffile

from pellucid.cohort.intake.sandbox import read_files
from pellucid.cohort.readers import UnreadableImage, sniff
from pellucid.cohort.readers.whole_slide import WHOLE_SLIDE_SOP_CLASS, is_slide_tiff
from pellucid.cohort.study import ScanConfig


def pass_gate(root: Path, file: str, data: bytes, config: ScanConfig) -> str:
    """Refuse a file on which a decoder crashes, hangs or runs out of memory, or that gives no picture.

    Whole slides pass: they are refused by their header alone, and reading all their tiles would take long.

    Args:
        root: folder that `file` is relative to.
        file: posix path.
        data: its bytes.
        config: limits of the scan.

    Returns:
        Why the first frame that cannot be read cannot; empty if all can.

    Raises:
        UnreadableImage: with the reason that a scan would give.
    """
    if _slide(data):
        return ""
    sound, reason = 0, ""
    for row, _ in read_files(root, [file], config.model_copy(update={"frames": "all", "text": "lines"})):
        if row["status"] == "ok":
            sound += 1
        else:
            reason = reason or str(row["reason"])
            if row.get("frame") == "rest":  # its reader died after some of its frames
                sound = 0
    if not sound:
        raise UnreadableImage(reason or "it gives no picture")
    return reason


def _slide(data: bytes) -> bool:
    kind = sniff(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if kind == "dicom":
                header = pydicom.dcmread(
                    io.BytesIO(data), stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True
                )
                return str(header.get("SOPClassUID", "")) == WHOLE_SLIDE_SOP_CLASS
            if kind == "tiff":
                with tifffile.TiffFile(io.BytesIO(data)) as tiff:
                    return is_slide_tiff(tiff, cautious=True)
        except Exception:  # damaged: the reader says how
            return False
    return False
