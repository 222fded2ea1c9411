"""Captions name an image without its file name."""

from __future__ import annotations

import pandas as pd

from pellucid.cohort.manifest import with_captions


def test_images_of_a_patient_are_numbered_in_the_order_of_their_ids() -> None:
    images = pd.DataFrame({"image_id": ["c.png", "a.png", "b.png"], "patient": ["P0042", "P0042", "P0007"]})
    found = with_captions(images)
    assert found["image_id"].tolist() == ["a.png", "b.png", "c.png"]
    assert found["caption"].tolist() == ["image 1 of P0042", "image 1 of P0007", "image 2 of P0042"]
