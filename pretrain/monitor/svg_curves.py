"""Small curves as inline SVG for the training page and the report, and the colours of all pages.

Python draws the whole curve; SCRIPT only shows the value under the pointer.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

# Okabe and Ito's blue and vermillion, distinguishable with colour vision deficiency; the pages' ink and greys.
CLINICAL, ACQUISITION, INK, SOFT, FAINT = "#0072B2", "#D55E00", "#1f2933", "#52606d", "#e4e7eb"
PALETTE = {  # CSS variables of the training page and the report
    "ink": INK,
    "soft": SOFT,
    "line": "#dde2e8",
    "ground": "#f6f8fa",
    "blue": "#0b5a8f",
    "flagged": "#c2410c",
    "caution": "#b7791f",
    "neutral": "#64748b",
    "good": "#0f766e",
}
_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 236, 136, 40, 10, 10, 20
_MOST_POINTS = 300

CSS_VARIABLES = " ".join(f"--{name}: {colour};" for name, colour in PALETTE.items())

STYLE = """
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 18px 24px; margin: 12px 0; }
.curve { margin: 0; break-inside: avoid; min-width: 0; display: flex; flex-direction: column; }
.curve figcaption { display: flex; justify-content: space-between; gap: 10px; font-size: 14.5px; margin: 0;
  max-width: none; color: #1f2933; }
.curve figcaption b { font-weight: 600; }
.curve figcaption span { color: #52606d; font-variant-numeric: tabular-nums; white-space: nowrap; }
.curve .say { font-size: 12.5px; color: #52606d; line-height: 1.35; margin: 1px 0 0; }
.curve svg { display: block; width: 100%; height: auto; margin-top: auto; overflow: visible; }
.curve text { font: 10.5px Inter, "Source Sans 3", "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #52606d; }
.curve .tip { fill: #1f2933; font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
"""

SCRIPT = """
document.querySelectorAll('.curve svg').forEach(svg => {
  const data = JSON.parse(svg.dataset.points), dot = svg.querySelector('.dot'), tip = svg.querySelector('.tip');
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    let best = data[0];
    for (const p of data) if (Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
    dot.setAttribute('cx', best[0]); dot.setAttribute('cy', best[1]); dot.style.display = tip.style.display = '';
    tip.textContent = best[2]; tip.setAttribute('x', Math.min(Math.max(best[0], 80), 176));
    tip.setAttribute('y', best[1] < 34 ? best[1] + 20 : best[1] - 9);
  });
  svg.addEventListener('pointerleave', () => { dot.style.display = tip.style.display = 'none'; });
});
"""


@dataclass(frozen=True)
class Curve:
    """One small figure.

    Attributes:
        points: (step, value), finite, by step.
        band: (step, low, high) around them.
        say: explanation below the title.
        reference: value and label of a dashed line, for example the chance level.
        limits: of the vertical axis; None: the range of the points.
        steps: right end of the horizontal axis.
        last: text next to the title; "": the last value.
        linear: never use a logarithmic axis, even if the values span powers of ten.
    """

    title: str
    points: Sequence[tuple[float, float]]
    say: str = ""
    colour: str = INK
    band: Sequence[tuple[float, float, float]] = ()
    reference: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    steps: float | None = None
    last: str = ""
    markers: bool = False
    linear: bool = False

    def svg(self) -> Markup:
        """The figure and its caption as markup."""
        points = thinned(self.points)
        if not points:
            return Markup("")
        logarithmic = self._logarithmic()

        def scaled(value: float) -> float:
            return math.log10(value) if logarithmic else value

        low, high = self._limits(logarithmic)
        end = max(self.steps or 0, points[-1][0], 1)

        def x(step: float) -> float:
            return round(_LEFT + (_W - _LEFT - _RIGHT) * step / end, 1)

        def y(value: float) -> float:
            share = (min(max(scaled(value), low), high) - low) / (high - low)
            return round(_H - _BOTTOM - (_H - _TOP - _BOTTOM) * share, 1)

        parts = []
        for tick in _ticks(low, high, logarithmic):
            at = y(tick)
            parts.append(f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{at}" y2="{at}" stroke="{FAINT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 3.5}" text-anchor="end">{number(tick)}</text>')
        parts.append(f'<text x="{_LEFT}" y="{_H - 6}">0</text>')
        parts.append(f'<text x="{_W - _RIGHT}" y="{_H - 6}" text-anchor="end">step {end:,.0f}</text>')
        if self.band:
            edge = [f"{x(step)},{y(up)}" for step, _, up in self.band]
            edge += [f"{x(step)},{y(down)}" for step, down, _ in reversed(self.band)]
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{self.colour}" opacity="0.13"/>')
        if self.reference is not None and low <= scaled(self.reference[0]) <= high:
            at = y(self.reference[0])
            parts.append(
                f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{at}" y2="{at}" stroke="{SOFT}" stroke-dasharray="4 3"/>'
                f'<text x="{_W - _RIGHT}" y="{at - 3.5}" text-anchor="end">{html.escape(self.reference[1])}</text>'
            )
        path = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{self.colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        )
        if self.markers or len(points) == 1:
            parts += [f'<circle cx="{x(s)}" cy="{y(v)}" r="2.6" fill="{self.colour}"/>' for s, v in points]
        tips = [[x(step), y(value), f"step {step:,.0f}: {number(value)}"] for step, value in points]
        last = self.last or number(points[-1][1])
        say = f'<p class="say">{html.escape(self.say)}</p>' if self.say else ""
        return Markup(
            "<figure "
            f'class="curve"><figcaption><b>{html.escape(self.title)}</b><span>{html.escape(last)}</span></figcaption>'
            f'{say}<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{html.escape(self.title)}: {html.escape(last)}" '
            f'data-points="{html.escape(json.dumps(tips))}">{"".join(parts)}'
            f'<circle class="dot" r="3.5" fill="{self.colour}" style="display:none"/>'
            f'<text class="tip" text-anchor="middle" style="display:none"></text></svg></figure>'
        )

    def _logarithmic(self) -> bool:
        values = [value for _, value in self.points]
        return not self.linear and self.limits is None and min(values) > 0 and max(values) / min(values) > 100

    def _limits(self, logarithmic: bool) -> tuple[float, float]:
        if self.limits is not None:
            return self.limits
        values = [value for _, value in self.points] + [edge for _, *edges in self.band for edge in edges]
        if logarithmic:
            return math.log10(min(values)), math.log10(max(values))
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return (0.0 if 0 <= low <= 0.3 * high else low - margin), high + margin


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _MOST_POINTS points: means of consecutive ones; the last point is unchanged."""
    good = [(float(s), float(v)) for s, v in points if math.isfinite(v)]
    if len(good) <= _MOST_POINTS:
        return good
    size = math.ceil(len(good) / _MOST_POINTS)
    groups = [good[i : i + size] for i in range(0, len(good) - 1, size)]
    means = [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]
    return [*means, good[-1]]


def number(value: float) -> str:
    """Three significant digits, without exponent notation where possible."""
    if value == 0:
        return "0"
    if value < 0:
        return "−" + number(-value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa.removesuffix('.0')}·10{raised}"
    return f"{value:.3g}"


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Two to five round values between the limits, which are exponents of ten on a logarithmic axis."""
    if logarithmic:
        exponents = range(math.ceil(low), math.floor(high) + 1)
        chosen = [10.0**e for e in exponents][:: max(1, math.ceil(len(exponents) / 4))]
        return chosen if len(chosen) > 1 else [10**low, 10**high]
    raw = (high - low) / 3
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
