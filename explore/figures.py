"""Plotly figures, the same for the report and the explorer: frames and dicts in, a `Figure` out, nothing read or written.

Colours are safe for the colour-blind (Okabe & Ito 2008): blue is clinical, vermilion is acquisition, grey is a baseline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from explore import words

CLINICAL, ACQUISITION, MUTED, INK, FAINT = "#0072B2", "#D55E00", "#8a929c", "#1f2933", "#e4e7eb"
LEVEL_COLOURS = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#6B4FBB",
    "#8C564B",
    "#B2B200",
    "#17407A",
    "#5F9E6E",
    "#A63D5A",
]
SHADES = [[0.0, "#f7fafc"], [0.5, "#8fbbd9"], [1.0, "#0b5a8f"]]
_SYMBOLS = ["circle", "square", "triangle-up", "star", "pentagon"]
_SVG_POINTS = 4000  # above, WebGL draws: SVG needs a node for each point

TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "'Source Sans', Inter, 'Source Sans 3', 'Source Sans Pro', 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
            "size": 14,
            "color": INK,
        },
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "colorway": LEVEL_COLOURS,
        "title": {"font": {"size": 16}, "x": 0, "xanchor": "left", "xref": "container"},
        "xaxis": {"gridcolor": FAINT, "zeroline": False, "linecolor": "#cbd2d9", "ticks": "", "automargin": True},
        "yaxis": {"gridcolor": FAINT, "zeroline": False, "linecolor": "#cbd2d9", "ticks": "", "automargin": True},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.06, "x": 0, "xanchor": "left", "font": {"size": 13}},
        "margin": {"l": 8, "r": 24, "t": 6, "b": 8},
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": "#9aa5b1", "font": {"size": 13, "color": INK}},
    }
)


def levels_and_colours(values: pd.Series, most: int = 12) -> tuple[pd.Series, dict[str, str]]:
    """Each value as a shown level, and a colour for each level: frequent levels by name, the rest as one."""
    shown = values.map(words.plain).astype(object)
    present = shown[~shown.isin([words.MISSING, words.UNASSIGNED])]
    frequent = present.value_counts().index.tolist()
    if len(frequent) > most:
        rest = set(frequent[most - 1 :])
        other = f"other ({len(rest)} levels)"
        shown = shown.where(~shown.isin(rest), other)
        frequent = [*frequent[: most - 1], other]
    named = sorted((level for level in frequent if not level.startswith("other (")), key=_natural)
    colours = {level: LEVEL_COLOURS[i % len(LEVEL_COLOURS)] for i, level in enumerate(named)}
    colours |= {level: "#b8c0c9" for level in frequent if level.startswith("other (")}
    if (shown == words.MISSING).any():
        colours[words.MISSING] = "#d3d8de"
    if (shown == words.UNASSIGNED).any():
        colours[words.UNASSIGNED] = "#cbd2d9"
    return shown, colours


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key in which `Scanner 2` comes before `Scanner 10`, and 9.5 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part.casefold()) for i, part in enumerate(parts) if part]


def map_figure(
    points: pd.DataFrame,
    values: pd.Series,
    continuous: bool = False,
    name: str = "",
    hover: pd.Series | None = None,
    marked: int | None = None,
    height: int = 560,
) -> go.Figure:
    """The map of images, coloured by any variable.

    Args:
        points: key (what a click gives back), x, y; one row per image.
        values: one value per row of `points`.
        continuous: a colour scale instead of a colour per level.
        name: what the colour shows.
        hover: one text per row (already safe for Plotly).
        marked: key of the image to ring.
    """
    figure = go.Figure()
    size = float(np.clip(220 / max(len(points), 1) ** 0.5, 3.5, 10))
    line = {"width": 0.4, "color": "#ffffff"}
    kind = go.Scatter if len(points) <= _SVG_POINTS else go.Scattergl
    texts = pd.Series("", index=points.index) if hover is None else hover
    common: dict[str, Any] = {"mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    if continuous:
        numbers = pd.to_numeric(values, errors="coerce")
        groups = [(numbers.isna().to_numpy(), words.MISSING), (numbers.notna().to_numpy(), words.humane(name))]
        for rows, label in groups:
            if not rows.any():
                continue
            marker: dict[str, Any] = {"size": size, "opacity": 0.9, "line": line, "color": "#d3d8de"}
            if label != words.MISSING:
                bounds = numbers.quantile([0.02, 0.98])
                marker |= {
                    "color": numbers[rows].to_numpy(float),
                    "colorscale": "Cividis",
                    "cmin": float(bounds.iloc[0]),
                    "cmax": float(bounds.iloc[1]) if bounds.iloc[1] > bounds.iloc[0] else float(bounds.iloc[0]) + 1,
                    "colorbar": {
                        "title": {"text": words.for_plotly(words.humane(name)), "side": "top"},
                        "orientation": "h",
                        "thickness": 12,
                        "len": 0.5,
                        "x": 0,
                        "xanchor": "left",
                        "y": -0.02,
                        "yanchor": "top",
                        "outlinewidth": 0,
                    },
                }
            figure.add_trace(_points(kind, points[rows], texts[rows], marker, label, common, legend=False))
    else:
        shown, colours = levels_and_colours(values)
        counts = shown.value_counts()
        last = [level for level in colours if level in {words.MISSING, words.UNASSIGNED}]
        for level in [*last, *[level for level in colours if level not in last]]:
            rows = (shown == level).to_numpy()
            pale = level in last
            marker = {
                "size": size * (0.8 if pale else 1),
                "opacity": 0.7 if pale else 0.88,
                "line": line,
                "color": colours[level],
            }
            label = f"{words.for_plotly(level, 28)} ({counts[level]:,})"
            figure.add_trace(_points(kind, points[rows], texts[rows], marker, label, common, legend=True))
    if marked is not None and (points["key"] == marked).any():
        here = points[points["key"] == marked].iloc[0]
        ring = {"size": size + 12, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": "#111111"}}
        figure.add_trace(
            go.Scatter(x=[here["x"]], y=[here["y"]], mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
        )
    bare = {"showgrid": False, "showticklabels": False, "title": None, "showline": True, "mirror": True}
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        xaxis=bare,
        yaxis=bare,
        plot_bgcolor="#fbfcfd",
        legend={"itemsizing": "constant", "y": -0.02},
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        dragmode="pan",
    )
    return figure


def _points(
    kind: Any,
    rows: pd.DataFrame,
    texts: pd.Series,
    marker: dict[str, Any],
    name: str,
    common: dict[str, Any],
    legend: bool,
) -> Any:
    return kind(
        x=rows["x"].to_numpy(float).round(3),
        y=rows["y"].to_numpy(float).round(3),
        customdata=rows["key"].tolist(),
        text=texts.tolist(),
        marker=marker,
        name=name,
        showlegend=legend,
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": marker["opacity"]}},
        **common,
    )


def probe_figure(backbones: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """How well each variable can be read off the vectors: a dot with its interval per variable and backbone.

    Args:
        backbones: backbone name → `variables` rows of probes.json or audit.json.
    """
    order = sorted(backbones, key=words.is_baseline)
    rows: list[tuple[str, str]] = []  # (role, variable), in the order first met; clinical above acquisition
    scales: dict[str, list[tuple[str, str]]] = {}
    for name in order:
        for item in backbones[name]:
            key = (str(item.get("role", "clinical")), str(item["name"]))
            if key not in rows:
                rows.append(key)
            scale = words.metric_label(item.get("metric"))
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
            muted = words.is_baseline(name)
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
                            "symbol": _SYMBOLS[b % len(_SYMBOLS)],
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
        chance = 0.5 if scale == "AUROC" else 0.0
        figure.add_vline(x=chance, line={"dash": "dash", "width": 1.5, "color": "#52606d"}, row=panel, col=1)
        for i in range(len(members) - 1):
            figure.add_hline(y=i + 0.5, line={"width": 1, "color": FAINT}, row=panel, col=1)
        figure.update_yaxes(
            tickvals=list(range(len(members))),
            ticktext=[words.for_plotly(words.humane(name), 30) + "  " for _, name in reversed(members)],
            tickfont={"size": 15},
            range=[-0.55, len(members) - 0.45],
            showgrid=False,
            row=panel,
            col=1,
        )
        span = _span(backbones, members, chance)
        figure.update_xaxes(range=span, title={"text": _axis_title(scale), "font": {"size": 13}}, row=panel, col=1)
    figure.add_annotation(
        x=0.5 if next(iter(panels)) == "AUROC" else 0.0,
        y=1,
        yref="y domain",
        text="chance",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12, "color": "#52606d"},
    )
    for b, name in enumerate(order):  # the legend is drawn by hand: one entry per backbone, two colours for the roles
        muted = words.is_baseline(name)
        marker = {
            "size": 9 if muted else 12,
            "symbol": _SYMBOLS[b % len(_SYMBOLS)],
            "color": "#ffffff" if muted else INK,
            "line": {"width": 2, "color": MUTED if muted else INK},
        }
        label = words.for_plotly(words.backbone_label(name)) + (" (baseline)" if muted else "")
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


def scales(variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scales on which there is a score, AUROC first."""
    found = {words.metric_label(v.get("metric")) for v in variables if v.get("score") is not None}
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
    if scale == "AUROC":
        return "how well it can be read off the embedding (AUROC: 0.5 is chance, 1 is perfect)"
    return f"how well it can be read off the embedding ({scale}: 0 is chance, 1 is perfect)"


def _probe_hover(backbone: str, item: Mapping[str, Any]) -> str:
    lines = [
        f"<b>{words.for_plotly(words.humane(str(item['name'])))}</b>, {words.for_plotly(words.backbone_label(backbone))}",
        f"{words.metric_label(item.get('metric'))} {words.interval(item)}",
    ]
    if item.get("n_patients") is not None:
        lines.append(words.count(int(item["n_patients"]), "patient"))
    if "p_value" in item:
        lines.append(words.p_text(item["p_value"]))
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
            if {words.metric_label(r.get("metric", before.get("metric"))) for r in (before, beyond)} != {scale}:
                continue
            label = f"<b>{words.for_plotly(words.humane(target), 26)}</b> within {words.for_plotly(words.humane(other), 26)}"
            rows.append((label, before, beyond, colour))
    if not rows:
        return None
    chance = 0.5 if scale == "AUROC" else 0.0
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
                hovertemplate=f"{label}<br>all patients: {words.interval(before)}<extra></extra>",
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
                hovertemplate=f"{label}<br>within levels: {words.interval(beyond)}, {words.p_text(beyond.get('p_value'))}<extra></extra>",
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


def shares_figure(table: Mapping[str, Mapping[str, int]], clinical: str, acquisition: str) -> go.Figure:
    """Who was imaged with what: for each level of a factor, the share of patients at each clinical level.

    Args:
        table: acquisition level → clinical level → number of patients.
    """
    frame = pd.DataFrame(table).T.fillna(0)
    frame = frame.loc[sorted(frame.index, key=lambda level: _natural(str(level)))]
    totals = frame.sum(axis=1)
    shares = frame.div(totals.where(totals > 0, 1), axis=0)
    figure = go.Figure()
    labels = [f"{words.for_plotly(str(level), 24)}  (n = {int(totals[level])})  " for level in frame.index]
    for i, level in enumerate(sorted(frame.columns, key=lambda level: _natural(str(level)))):
        counts = frame[level].astype(int)
        figure.add_trace(
            go.Bar(
                y=labels,
                x=shares[level],
                orientation="h",
                name=words.for_plotly(str(level), 28),
                marker={"color": LEVEL_COLOURS[i % len(LEVEL_COLOURS)], "line": {"width": 1, "color": "#ffffff"}},
                text=[str(n) if share >= 0.06 else "" for n, share in zip(counts, shares[level], strict=True)],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": _on(LEVEL_COLOURS[i % len(LEVEL_COLOURS)]), "size": 13},
                customdata=counts,
                hovertemplate="%{y}: %{customdata} patients, %{x:.0%}"
                + f"<extra>{words.for_plotly(str(level), 28)}</extra>",
            )
        )
    figure.update_xaxes(
        range=[0, 1],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        tickformat=".0%",
        title={"text": "share of patients", "font": {"size": 13}},
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(
        template=TEMPLATE,
        barmode="stack",
        bargap=0.28,
        height=38 * len(frame) + 130,
        legend={
            "title": {"text": words.for_plotly(words.humane(clinical)) + "  ", "font": {"size": 13}},
            "traceorder": "normal",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
        margin={"b": 84},
    )
    return figure


def _on(colour: str) -> str:
    """Black or white, whichever can be read on `colour` (relative luminance, WCAG 2)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#ffffff" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.3 else INK


def factor_figure(factor: Mapping[str, Any]) -> go.Figure:
    """Patients per level of one acquisition factor."""
    levels = sorted(factor.get("levels") or [], key=lambda item: _natural(words.plain(item["level"])))
    names = [words.for_plotly(words.plain(item["level"]), 28) + "  " for item in levels]
    patients = [int(item["patients"]) for item in levels]
    images = [int(item.get("images", 0)) for item in levels]
    figure = go.Figure(
        go.Bar(
            y=names,
            x=patients,
            orientation="h",
            marker={"color": ACQUISITION, "opacity": 0.85},
            text=[f"{p:,} patients, {i:,} images" for p, i in zip(patients, images, strict=True)],
            textposition="auto",
            insidetextanchor="start",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(visible=False, range=[0, max([*patients, 1]) * 1.02])
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_layout(template=TEMPLATE, height=30 * max(len(levels), 1) + 24, bargap=0.25, showlegend=False)
    return figure


def training_figure(metrics: pd.DataFrame) -> go.Figure:
    """The course of pretraining: the loss, step by step, and its running mean.

    Args:
        metrics: rows of metrics.jsonl; `step` and `loss` are drawn.
    """
    rows = metrics.dropna(subset=["loss"]) if {"step", "loss"} <= set(metrics.columns) else metrics.iloc[:0]
    if rows.empty:
        return note_figure("No loss was recorded.")
    if len(rows) > 2000:
        rows = rows.iloc[:: len(rows) // 2000 + 1]
    figure = go.Figure()
    smooth = rows["loss"].ewm(span=max(2, len(rows) // 25)).mean()
    figure.add_trace(
        go.Scatter(
            x=rows["step"], y=rows["loss"], mode="lines", line={"width": 1, "color": "#bcd3e6"}, name="each step"
        )
    )
    figure.add_trace(
        go.Scatter(x=rows["step"], y=smooth, mode="lines", line={"width": 3, "color": CLINICAL}, name="running mean")
    )
    figure.update_xaxes(title={"text": "training step", "font": {"size": 13}})
    figure.update_yaxes(title={"text": "loss (lower is better)", "font": {"size": 13}})
    figure.update_layout(
        template=TEMPLATE, height=320, legend={"y": 0, "yref": "container", "yanchor": "bottom"}, margin={"b": 76}
    )
    return figure


def note_figure(sentence: str) -> go.Figure:
    """A sentence where a figure would stand."""
    figure = go.Figure()
    figure.add_annotation(text=words.for_plotly(sentence, 200), showarrow=False, font={"size": 15, "color": "#52606d"})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(template=TEMPLATE, height=90)
    return figure
