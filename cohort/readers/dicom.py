"""Single-frame DICOM: modality LUT, VOI window, MONOCHROME1, palette and YBR to the picture a radiologist would see."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from cohort.readers.picture import Picture, UnreadableImage, flat_rgb, refuse_bomb

_HEADER = {
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "software": "SoftwareVersions",
    "modality": "Modality",
    "patient_id": "PatientID",
}
_IDENTITY = ("PatientName", "PatientBirthDate", "PatientAddress", "ReferringPhysicianName", "OperatorsName")


def read_dicom(data: bytes, *, max_megapixels: float) -> Picture:
    """See `cohort.readers.read_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # pydicom warns of every value that breaks the standard; the archive is full of them
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            rows, columns = int(dataset.Rows), int(dataset.Columns)
            frames = int(dataset.get("NumberOfFrames") or 1)
        except Exception:
            raise UnreadableImage("a DICOM file without a picture, or with a damaged header") from None
        if frames > 1:
            raise UnreadableImage(f"a DICOM file of {frames} frames: this version reads single frames")
        refuse_bomb(columns, rows, max_megapixels)
        try:
            pixels = flat_rgb(_displayed(dataset))
        except Exception as error:
            raise UnreadableImage(f"a DICOM file whose pixels cannot be decoded ({type(error).__name__})") from None
    header = {name: str(dataset.get(keyword, "")).strip() for name, keyword in _HEADER.items()}
    findings = ("dicom_identity",) if any(str(dataset.get(k, "")).strip(" ^") for k in _IDENTITY) else ()
    return Picture(
        pixels,
        columns,
        rows,
        "dicom",
        int(dataset.get("BitsStored", 8)),
        {name: value for name, value in header.items() if value},
        findings,
    )


def _displayed(dataset: Any) -> NDArray[np.uint8]:
    values = dataset.pixel_array  # YBR comes out as RGB
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours.astype(np.uint8)
    if values.ndim == 3:
        return values.astype(np.uint8) if values.dtype == np.uint8 else _stretched(values)
    windowed = "WindowCenter" in dataset or "VOILUTSequence" in dataset
    values = apply_modality_lut(values, dataset)
    shown = _stretched(_windowed(values, dataset) if windowed else values, full=windowed)
    return 255 - shown if photometric == "MONOCHROME1" else shown


def _windowed(values: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """The first VOI LUT or window; clipped to the window, so that its ends are black and white (PS3.3 C.11.2)."""
    if "VOILUTSequence" in dataset:
        return np.asarray(apply_voi_lut(values, dataset, index=0))
    first = [
        v[0] if isinstance(v, pydicom.multival.MultiValue) else v for v in (dataset.WindowCenter, dataset.WindowWidth)
    ]
    centre, width = float(first[0]), max(float(first[1]), 1.0)
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return (values.astype(np.float32).clip(low, high) - low) / max(high - low, 1e-6)


def _stretched(values: NDArray[Any], *, full: bool = False) -> NDArray[np.uint8]:
    """To 0–255: what is already a display range is taken whole; raw values from their 0.5th to 99.5th percentile."""
    values = values.astype(np.float32)
    if full and values.min() >= 0 and values.max() <= 1:
        low, high = 0.0, 1.0
    elif full:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return np.asarray(((values - low) / max(high - low, 1e-6) * 255).clip(0, 255).round(), dtype=np.uint8)
