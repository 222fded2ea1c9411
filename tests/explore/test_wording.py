"""Numbers and names as readers see them."""

from __future__ import annotations

from pellucid.explore import wording


def test_words() -> None:
    assert wording.backbone_label("run:/srv/jane/study/analysis/pretrain/mae-tiny-cpu-0a1b2c3d") == "mae-tiny-cpu"
    assert wording.for_markdown("see http://evil.example") == "see http\u2060\\://evil.example"
    assert wording.level_text(3.0) == "3"
    assert wording.level_text(float("nan")) == wording.MISSING
    assert wording.p_value_text(0.0004) == "p < 0.001"
    assert wording.p_value_text(0.034) == "p = 0.034"
    assert [wording.p_value_cell(p) for p in (None, 0.0004, 0.25)] == ["–", "< 0.001", "0.25"]
    assert [wording.number(value) for value in (None, -0.001, -0.18)] == ["–", "0.00", "−0.18"]
    assert wording.interval({"score": -0.18, "ci_low": -0.4, "ci_high": 0.1}) == "−0.18 (−0.40 to 0.10)"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
