"""The schedules against the papers' formulas, computed by NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.pretrain.schedules import cosine, scaled_lr, warmup_cosine, warmup_linear


@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.04, 0.4), (1e-3, 0.0), (0.3, 0.3)])
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_cosine_is_the_half_period_of_sgdr(start: float, end: float, steps: int) -> None:
    t = np.arange(steps)
    expected = end + 0.5 * (start - end) * (1 + np.cos(np.pi * t / steps))
    np.testing.assert_allclose([cosine(int(i), steps, start, end) for i in t], expected, rtol=1e-12)
    assert cosine(steps, steps, start, end) == pytest.approx(end, abs=1e-15)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (50, 49), (3, 1)])
def test_warmup_rises_evenly_to_the_peak_and_then_follows_the_cosine(steps: int, warmup: int) -> None:
    values = np.array([warmup_cosine(i, steps, warmup, 2e-3, 1e-6) for i in range(steps)])
    rise = 2e-3 * (np.arange(warmup) + 1) / max(1, warmup)
    t = np.arange(steps - warmup) / (steps - warmup)
    np.testing.assert_allclose(values, np.r_[rise, 1e-6 + 0.5 * (2e-3 - 1e-6) * (1 + np.cos(np.pi * t))], rtol=1e-12)
    assert values.max() == pytest.approx(2e-3)
    assert values.min() > 0


def test_teacher_temperature_warms_up_linearly_and_stays() -> None:
    values = [warmup_linear(i, 30, 0.04, 0.07) for i in range(60)]
    np.testing.assert_allclose(values[:31], np.linspace(0.04, 0.07, 31), rtol=1e-12)
    assert set(values[30:]) == {0.07}


def test_pinned_values_of_the_papers() -> None:
    assert scaled_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)  # MAE
    assert scaled_lr(5e-4, 1024) == pytest.approx(2e-3)  # DINO
    assert cosine(50, 100, 0.996, 1.0) == pytest.approx(0.998)
    assert cosine(25, 100, 0.04, 0.4) == pytest.approx(0.04 + 0.36 * (1 - np.cos(np.pi / 4)) / 2)
