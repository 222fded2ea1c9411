"""Plotly figures of the audit for report and explorer: how well each variable is predicted, alone and within levels of
another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pellucid.explore import wording
from pellucid.explore.figures.map_figures import MUTED, TEMPLATE, note_figure
from pellucid.pretrain.monitor import ACQUISITION, CLINICAL, FAINT, INK, SOFT

SYMBOLS = ["circle", "square", "triangle-up", "star", "pentagon"]  # one for each backbone
_CHANCE_LINE = {"dash": "dash", "width": 1.5, "color": SOFT}


def probe_figure(backbones: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """How well each variable is predicted from the vectors: a dot with its interval per variable and backbone.

    Args:
        backbones: backbone name → `variables` rows of probes.json or audit.json.
    """
    order = sorted(backbones, key=wording.is_baseline)
    panels = _panels(backbones, order)
    if not panels:
        return note_figure("No variable has enough patients.")
    row_px, gap_px, above_px = max(38, 19 * len(order)), 78, 28
    below_px = 110 if len(order) > 2 else 88
    heights = [row_px * len(members) for members in panels.values()]
    inner_px = sum(heights) + gap_px * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels), cols=1, row_heights=heights, vertical_spacing=gap_px / inner_px if len(panels) > 1 else 0
    )
    shift = np.linspace(0.26, -0.26, len(order)) if len(order) > 1 else np.zeros(1)
    for panel, (scale, members) in enumerate(panels.items(), start=1):
        for b, name in enumerate(order):
            for trace in _dots(name, backbones[name], members, SYMBOLS[b % len(SYMBOLS)], float(shift[b])):
                figure.add_trace(trace, row=panel, col=1)
        labels = [_row_label(key, [row for name in order for row in backbones[name]]) for key in members]
        _probe_axes(figure, panel, scale, labels, _span(backbones, members, wording.chance(scale)))
    _chance_label(figure, wording.chance(next(iter(panels))), "y domain")
    _probe_legend(figure, order)
    figure.update_layout(
        template=TEMPLATE,
        height=inner_px + above_px + below_px,
        legend={"y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"t": above_px, "b": below_px},
    )
    return figure


Row = tuple[str, str]  # (role, variable)


def _panels(backbones: Mapping[str, Sequence[Mapping[str, Any]]], order: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each scale, AUROC first; in the order first met, clinical above acquisition."""
    rows: list[Row] = []
    scales: dict[str, list[Row]] = {}
    for name in order:
        for item in backbones[name]:
            key = (str(item.get("role", "clinical")), str(item["name"]))
            if key not in rows:
                rows.append(key)
            scale = wording.metric_label(item.get("metric"))
            if item.get("score") is not None and key not in scales.setdefault(scale, []):
                scales[scale].append(key)
    rows.sort(key=lambda key: key[0] == "acquisition")
    panels = {scale: [row for row in rows if row in members] for scale, members in scales.items() if members}
    return dict(sorted(panels.items(), key=lambda entry: entry[0] != "AUROC"))


def _dots(
    backbone: str, items: Sequence[Mapping[str, Any]], members: Sequence[Row], symbol: str, shift: float
) -> Iterator[go.Scatter]:
    """One trace for each role: the backbone's scores with their intervals in one panel."""
    muted = wording.is_baseline(backbone)
    found = {(str(v.get("role", "clinical")), str(v["name"])): v for v in items}
    for role in ("clinical", "acquisition"):
        picked = [(i, found[key]) for i, key in enumerate(members) if key[0] == role and key in found]
        picked = [(i, v) for i, v in picked if v.get("score") is not None]
        if not picked:
            continue
        colour = MUTED if muted else CLINICAL if role == "clinical" else ACQUISITION
        x, low, high = (
            np.array([float(v["score"] if v.get(key) is None else v[key]) for _, v in picked])
            for key in ("score", "ci_low", "ci_high")
        )
        yield go.Scatter(
            x=x,
            y=[len(members) - 1 - i + shift for i, _ in picked],
            mode="markers",
            marker={
                "size": 9 if muted else 13,
                "color": "#ffffff" if muted else colour,
                "symbol": symbol,
                "line": {"width": 2, "color": colour},
            },
            error_x=_interval_bar(high - x, x - low, colour, 1.6 if muted else 2.4),
            text=[_probe_hover(backbone, v) for _, v in picked],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )


def _interval_bar(above: Any, below: Any, colour: str, thickness: float = 2.4) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": thickness,
        "width": 0,
        "color": colour,
    }


def _row_label(key: Row, items: Sequence[Mapping[str, Any]]) -> str:
    """Name of the variable and, below it, the number of patients."""
    name = wording.for_plotly(wording.readable_name(key[1]), 30) + "  "
    n = next((v["n_patients"] for v in items if str(v["name"]) == key[1] and v.get("n_patients") is not None), None)
    if n is None:
        return name
    return f'{name}<br><span style="font-size:11px;color:{SOFT}">{wording.count(int(n), "patient")}</span>  '


def _probe_axes(figure: go.Figure, panel: int, scale: str, labels: Sequence[str], span: list[float]) -> None:
    chance = wording.chance(scale)
    figure.add_vline(x=chance, line=_CHANCE_LINE, row=panel, col=1)
    for i in range(len(labels) - 1):
        figure.add_hline(y=i + 0.5, line={"width": 1, "color": FAINT}, row=panel, col=1)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=list(reversed(labels)),
        tickfont={"size": 15},
        range=[-0.55, len(labels) - 0.45],
        showgrid=False,
        row=panel,
        col=1,
    )
    figure.update_xaxes(range=span, title={"text": _axis_title(scale), "font": {"size": 13}}, row=panel, col=1)


def _probe_legend(figure: go.Figure, order: Sequence[str]) -> None:
    """One entry per backbone, and one per colour for the two roles."""
    for b, name in enumerate(order):
        muted = wording.is_baseline(name)
        marker = {
            "size": 9 if muted else 12,
            "symbol": SYMBOLS[b % len(SYMBOLS)],
            "color": "#ffffff" if muted else INK,
            "line": {"width": 2, "color": MUTED if muted else INK},
        }
        label = wording.for_plotly(wording.backbone_label(name)) + (" (baseline)" if muted else "")
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=label))
    for label, colour in (("clinical variable", CLINICAL), ("acquisition factor", ACQUISITION)):
        line = {"width": 6, "color": colour}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=label))


def _chance_label(figure: go.Figure, chance: float, yref: str) -> None:
    figure.add_annotation(
        x=chance,
        y=1,
        yref=yref,
        text="chance",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12, "color": SOFT},
    )


def by_neighbours(backbones: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The same rows with the kNN probe's score and interval in place of the linear one's; {} if there is none."""
    found = {
        name: [
            {k: v for k, v in (row | row["knn"]).items() if k not in {"p_value", "q_value"}}  # the linear probe's
            for row in rows
            if row.get("knn")
        ]
        for name, rows in backbones.items()
    }
    return {name: rows for name, rows in found.items() if rows}


def scales(variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scales on which there is a score, AUROC first."""
    found = {wording.metric_label(v.get("metric")) for v in variables if v.get("score") is not None}
    return sorted(found, key=lambda scale: (scale != "AUROC", scale))


def _span(
    backbones: Mapping[str, Sequence[Mapping[str, Any]]], members: Sequence[tuple[str, str]], chance: float
) -> list[float]:
    names = {name for _, name in members}
    low = [
        float(v["ci_low"] if v.get("ci_low") is not None else v["score"])
        for rows in backbones.values()
        for v in rows
        if str(v["name"]) in names and v.get("score") is not None
    ]
    floor = min([chance - 0.08, *low]) if low else chance - 0.08
    return [max(-1.0, float(np.floor(floor * 20) / 20)), 1.02]


def _axis_title(scale: str) -> str:
    return f"how well it can be told from the image ({scale}: {wording.chance(scale):g} is chance, 1 is perfect)"


def _probe_hover(backbone: str, item: Mapping[str, Any]) -> str:
    lines = [
        f"<b>{wording.for_plotly(wording.readable_name(str(item['name'])))}</b>, "
        f"{wording.for_plotly(wording.backbone_label(backbone))}",
        f"{wording.metric_label(item.get('metric'))} {wording.interval(item)}",
    ]
    if item.get("n_patients") is not None:
        lines.append(wording.count(int(item["n_patients"]), "patient"))
    if "p_value" in item:
        lines.append(wording.p_value_text(item["p_value"]))
    return "<br>".join(lines)


def pair_figure(
    pairs: Sequence[Mapping[str, Any]], variables: Sequence[Mapping[str, Any]], scale: str = "AUROC"
) -> go.Figure | None:
    """How well each variable is predicted once the other is held fixed: an open dot before, a full one after.

    Args:
        pairs: rows of audit.json's `pairs`.
        variables: its `variables`, which hold the scores without stratification.
        scale: only scores on this scale (`wording.metric_label`): two scales on one axis cannot be compared.

    Returns:
        None where no pair has both numbers on that scale.
    """
    rows = _pair_rows(pairs, variables, scale)
    if not rows:
        return None
    chance = wording.chance(scale)
    figure = go.Figure()
    for i, row in enumerate(rows):
        figure.add_traces(_pair_traces(row, len(rows) - 1 - i))
    for name, marker in (
        ("all patients", {"size": 12, "color": "#ffffff", "line": {"width": 2.4, "color": INK}}),
        ("only patients of the same level of the other variable", {"size": 13, "color": INK}),
    ):
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name))
    figure.add_vline(x=chance, line=_CHANCE_LINE)
    _chance_label(figure, chance, "paper")
    lows = [float(r.beyond.get("ci_low") or r.beyond["score"]) for r in rows] + [float(r.before["score"]) for r in rows]
    figure.update_xaxes(
        range=[float(np.floor(min([chance - 0.08, *lows]) * 20) / 20), 1.02],
        title={"text": f"{scale} ({chance:g} is chance, 1 is perfect)", "font": {"size": 13}},
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[row.label + "  " for row in reversed(rows)],
        range=[-0.6, len(rows) - 0.4],
    )
    figure.update_layout(
        template=TEMPLATE,
        height=36 * len(rows) + 130,
        legend={"y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"t": 28, "b": 76},
    )
    return figure


class _PairRow(NamedTuple):
    """One variable within the levels of another, with its score before (all patients) and beyond (within levels)."""

    label: str
    before: Mapping[str, Any]
    beyond: Mapping[str, Any]
    colour: str


def _pair_rows(
    pairs: Sequence[Mapping[str, Any]], variables: Sequence[Mapping[str, Any]], scale: str
) -> list[_PairRow]:
    overall = {str(v["name"]): v for v in variables}
    rows = []
    for pair in pairs:
        clinical, acquisition = str(pair["clinical"]), str(pair["acquisition"])
        for target, other, key, colour in (
            (clinical, acquisition, "clinical_beyond_acquisition", CLINICAL),
            (acquisition, clinical, "acquisition_beyond_clinical", ACQUISITION),
        ):
            beyond = pair.get(key) or {}
            before = overall.get(target, {})
            if beyond.get("score") is None or before.get("score") is None:
                continue
            if {wording.metric_label(r.get("metric", before.get("metric"))) for r in (before, beyond)} != {scale}:
                continue
            names = [wording.for_plotly(wording.readable_name(name), 26) for name in (target, other)]
            rows.append(_PairRow(f"<b>{names[0]}</b>, same {names[1]}", before, beyond, colour))
    return rows


def _pair_traces(row: _PairRow, y: int) -> list[go.Scatter]:
    """The line between the two dots, the open dot, and the full one with its interval."""
    a, b = float(row.before["score"]), float(row.beyond["score"])
    low, high = row.beyond.get("ci_low"), row.beyond.get("ci_high")
    within = f"{wording.interval(row.beyond)}, {wording.p_value_text(row.beyond.get('p_value'))}"
    return [
        go.Scatter(
            x=[a, b], y=[y, y], mode="lines", line={"width": 2, "color": "#cbd2d9"}, hoverinfo="skip", showlegend=False
        ),
        go.Scatter(
            x=[a],
            y=[y],
            mode="markers",
            marker={"size": 12, "color": "#ffffff", "line": {"width": 2.4, "color": row.colour}},
            hovertemplate=f"{row.label}<br>all patients: {wording.interval(row.before)}<extra></extra>",
            showlegend=False,
        ),
        go.Scatter(
            x=[b],
            y=[y],
            mode="markers",
            marker={"size": 13, "color": row.colour},
            error_x=_interval_bar(
                [0 if high is None else float(high) - b], [0 if low is None else b - float(low)], row.colour
            ),
            hovertemplate=f"{row.label}<br>same level: {within}<extra></extra>",
            showlegend=False,
        ),
    ]
