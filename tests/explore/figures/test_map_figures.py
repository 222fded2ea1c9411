"""Maps and shares show every image and every patient."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pellucid.explore import wording
from pellucid.explore.figures import map_figures


def test_every_image_is_on_the_map_and_a_click_gives_its_key() -> None:
    n = 50
    points = pd.DataFrame({"key": range(n), "x": np.arange(n, dtype=float), "y": 0.0})
    values = pd.Series([None if i % 7 == 0 else f"<b>level {i % 15}</b>" for i in range(n)])
    figure = map_figures.map_figure(points, values, name="device")
    keys = [key for trace in figure.data for key in trace.customdata]
    assert sorted(keys) == list(range(n))
    names = [trace.name for trace in figure.data]
    assert any(name.startswith(wording.MISSING) for name in names)
    assert any(name.startswith("other (") for name in names)
    assert not any("<b>" in name for name in names)
    assert len({trace.marker.color for trace in figure.data}) == len(figure.data)


def test_shares_add_up_to_all_patients_of_a_level() -> None:
    figure = map_figures.shares_figure({"Scanner 10": {"a": 3, "b": 1}, "Scanner 2": {"b": 4}}, "grade", "device")
    total = sum(np.asarray(trace.x, dtype=float) for trace in figure.data)
    assert total.tolist() == [1.0, 1.0]
    assert figure.data[0].y[0].startswith("Scanner 2 ")
