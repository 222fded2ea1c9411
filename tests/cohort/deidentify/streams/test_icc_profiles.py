"""A rebuilt colour profile gives the same colours and holds no text."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from pellucid.cohort.deidentify.streams.icc_profiles import rebuilt_profile
from pellucid.cohort.readers import UnreadableImage


def shown(profile: bytes) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    lab = ImageCms.createProfile("LAB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(values), source, lab, outputMode="LAB"))


def test_colours_stay_and_texts_go() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = profile.index(b"s\0R\0G\0B") - 1  # in its description, as UTF-16
    planted = profile[:at] + "Meier".encode("utf-16-be")[: len(b"\0s\0R\0G\0B")] + profile[at + 8 :]
    planted = planted[:48] + b"MEIE" + planted[52:] + b"Erika Meier"
    clean = rebuilt_profile(planted)
    for word in (b"MEIE", b"Meier", "Mei".encode("utf-16-be"), b"lcms"):
        assert word not in clean
    np.testing.assert_array_equal(shown(clean), shown(profile))
    assert rebuilt_profile(clean) == clean
    assert rebuilt_profile(b"") == b""


@pytest.mark.parametrize("damaged", [b"x" * 200, b"Erika Meier"])
def test_what_is_no_profile_is_refused(damaged: bytes) -> None:
    with pytest.raises(UnreadableImage, match="a colour profile that cannot be rebuilt"):
        rebuilt_profile(damaged)
