"""Names without a person: research ids of patients, and captions of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd


def hash_share(text: str) -> float:
    """A number in [0, 1) for a text, evenly spread over all texts there could be; the same for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def research_ids(patients: Sequence[str], seed: int) -> dict[str, str]:
    """Research id of each patient: a running number in the order of a hash, which tells nothing of the original id."""
    order = sorted(set(patients), key=lambda p: hashlib.sha256(f"research:{seed}:{p}".encode()).digest())
    width = max(4, len(str(len(order))))
    return {patient: f"P{number:0{width}d}" for number, patient in enumerate(order, start=1)}


def with_captions(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of a manifest in the order of `image_id`, with `caption`: `image 2 of P0042`, without any file name."""
    images = images.sort_values("image_id", ignore_index=True)
    number = images.groupby("patient").cumcount() + 1
    return images.assign(caption="image " + number.astype(str) + " of " + images["patient"].astype(str))
