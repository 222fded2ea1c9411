"""Plotly figures of what can be read off an embedding, for report and explorer alike: probes, and pairs held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pellucid.explore import wording
from pellucid.explore.figures.map_figures import (
    ACQUISITION,
    CLINICAL,
    FAINT,
    INK,
    MUTED,
    TEMPLATE,
    note_figure,
)

SYMBOLS = ["circle", "square", "triangle-up", "star", "pentagon"]  # one for each backbone


def probe_figure(backbones: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """How well each variable can be read off the vectors: a dot with its interval per variable and backbone.

    Args:
        backbones: backbone name → `variables` rows of probes.json or audit.json.
    """
    order = sorted(backbones, key=wording.is_baseline)
    rows: list[tuple[str, str]] = []  # (role, variable), in the order first met; clinical above acquisition
    scales: dict[str, list[tuple[str, str]]] = {}
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
    panels = dict(sorted(panels.items(), key=lambda entry: entry[0] != "AUROC"))
    if not panels:
        return note_figure("No variable has enough patients to be probed.")
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
            muted = wording.is_baseline(name)
            found = {(str(v.get("role", "clinical")), str(v["name"])): v for v in backbones[name]}
            for role in ("clinical", "acquisition"):
                picked = [(i, found[key]) for i, key in enumerate(members) if key[0] == role and key in found]
                picked = [(i, v) for i, v in picked if v.get("score") is not None]
                if not picked:
                    continue
                colour = MUTED if muted else CLINICAL if role == "clinical" else ACQUISITION
                x = np.array([float(v["score"]) for _, v in picked])
                low = np.array(
                    [x[j] if v.get("ci_low") is None else float(v["ci_low"]) for j, (_, v) in enumerate(picked)]
                )
                high = np.array(
                    [x[j] if v.get("ci_high") is None else float(v["ci_high"]) for j, (_, v) in enumerate(picked)]
                )
                figure.add_trace(
                    go.Scatter(
                        x=x,
                        y=[len(members) - 1 - i + shift[b] for i, _ in picked],
                        mode="markers",
                        marker={
                            "size": 9 if muted else 13,
                            "color": "#ffffff" if muted else colour,
                            "symbol": SYMBOLS[b % len(SYMBOLS)],
                            "line": {"width": 2, "color": colour},
                        },
                        error_x={
                            "type": "data",
                            "symmetric": False,
                            "array": high - x,
                            "arrayminus": x - low,
                            "thickness": 1.6 if muted else 2.4,
                            "width": 0,
                            "color": colour,
                        },
                        text=[_probe_hover(name, v) for _, v in picked],
                        hovertemplate="%{text}<extra></extra>",
                        showlegend=False,
                    ),
                    row=panel,
                    col=1,
                )
        chance = wording.chance(scale)
        figure.add_vline(x=chance, line={"dash": "dash", "width": 1.5, "color": "#52606d"}, row=panel, col=1)
        for i in range(len(members) - 1):
            figure.add_hline(y=i + 0.5, line={"width": 1, "color": FAINT}, row=panel, col=1)
        figure.update_yaxes(
            tickvals=list(range(len(members))),
            ticktext=[wording.for_plotly(wording.humane(name), 30) + "  " for _, name in reversed(members)],
            tickfont={"size": 15},
            range=[-0.55, len(members) - 0.45],
            showgrid=False,
            row=panel,
            col=1,
        )
        span = _span(backbones, members, chance)
        figure.update_xaxes(range=span, title={"text": _axis_title(scale), "font": {"size": 13}}, row=panel, col=1)
    figure.add_annotation(
        x=wording.chance(next(iter(panels))),
        y=1,
        yref="y domain",
        text="chance",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12, "color": "#52606d"},
    )
    for b, name in enumerate(order):  # the legend is drawn by hand: one entry per backbone, two colours for the roles
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
    figure.update_layout(
        template=TEMPLATE,
        height=inner_px + above_px + below_px,
        legend={"y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"t": above_px, "b": below_px},
    )
    return figure


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
    return f"how well it can be read off the embedding ({scale}: {wording.chance(scale):g} is chance, 1 is perfect)"


def _probe_hover(backbone: str, item: Mapping[str, Any]) -> str:
    lines = [
        f"<b>{wording.for_plotly(wording.humane(str(item['name'])))}</b>, {wording.for_plotly(wording.backbone_label(backbone))}",
        f"{wording.metric_label(item.get('metric'))} {wording.interval(item)}",
    ]
    if item.get("n_patients") is not None:
        lines.append(wording.count(int(item["n_patients"]), "patient"))
    if "p_value" in item:
        lines.append(wording.p_text(item["p_value"]))
    return "<br>".join(lines)


def pair_figure(
    pairs: Sequence[Mapping[str, Any]], variables: Sequence[Mapping[str, Any]], scale: str = "AUROC"
) -> go.Figure | None:
    """What is left of each reading once the other variable is held fixed: an open dot before, a full one after.

    Args:
        pairs: rows of audit.json's `pairs`.
        variables: its `variables`, which hold the scores without stratification.
        scale: only readings on this scale (`words.metric_label`): two scales on one axis would compare apples and pears.

    Returns:
        None where no pair has both numbers on that scale.
    """
    overall = {str(v["name"]): v for v in variables}
    rows: list[tuple[str, Mapping[str, Any], Mapping[str, Any], str]] = []
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
            label = f"<b>{wording.for_plotly(wording.humane(target), 26)}</b> within {wording.for_plotly(wording.humane(other), 26)}"
            rows.append((label, before, beyond, colour))
    if not rows:
        return None
    chance = wording.chance(scale)
    figure = go.Figure()
    top = len(rows) - 1
    for i, (label, before, beyond, colour) in enumerate(rows):
        y = top - i
        a, b = float(before["score"]), float(beyond["score"])
        figure.add_trace(
            go.Scatter(
                x=[a, b],
                y=[y, y],
                mode="lines",
                line={"width": 2, "color": "#cbd2d9"},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[a],
                y=[y],
                mode="markers",
                marker={"size": 12, "color": "#ffffff", "line": {"width": 2.4, "color": colour}},
                hovertemplate=f"{label}<br>all patients: {wording.interval(before)}<extra></extra>",
                showlegend=False,
            )
        )
        low, high = beyond.get("ci_low"), beyond.get("ci_high")
        figure.add_trace(
            go.Scatter(
                x=[b],
                y=[y],
                mode="markers",
                marker={"size": 13, "color": colour},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [0 if high is None else float(high) - b],
                    "arrayminus": [0 if low is None else b - float(low)],
                    "thickness": 2.4,
                    "width": 0,
                    "color": colour,
                },
                hovertemplate=f"{label}<br>within levels: {wording.interval(beyond)}, {wording.p_text(beyond.get('p_value'))}<extra></extra>",
                showlegend=False,
            )
        )
    for name, marker in (
        ("all patients together", {"size": 12, "color": "#ffffff", "line": {"width": 2.4, "color": INK}}),
        ("compared only within levels of the other", {"size": 13, "color": INK}),
    ):
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name))
    figure.add_vline(x=chance, line={"dash": "dash", "width": 1.5, "color": "#52606d"})
    figure.add_annotation(
        x=chance,
        y=1,
        yref="paper",
        text="chance",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12, "color": "#52606d"},
    )
    lows = [float(r[2].get("ci_low") or r[2]["score"]) for r in rows] + [float(r[1]["score"]) for r in rows]
    figure.update_xaxes(
        range=[float(np.floor(min([chance - 0.08, *lows]) * 20) / 20), 1.02],
        title={"text": f"{scale} ({chance:g} is chance, 1 is perfect)", "font": {"size": 13}},
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[row[0] + "  " for row in reversed(rows)],
        range=[-0.6, len(rows) - 0.4],
    )
    figure.update_layout(
        template=TEMPLATE,
        height=36 * len(rows) + 130,
        legend={"y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"t": 28, "b": 76},
    )
    return figure
