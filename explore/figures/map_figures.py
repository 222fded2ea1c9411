"""Plotly figures, the same for the report and the explorer: frames and dicts in, a `Figure` out, nothing read or
written.

Colours can be distinguished with colour vision deficiency (Okabe & Ito 2008): blue is clinical, vermilion is
acquisition, grey is a baseline. The palette is that of the training page (`pretrain.monitor`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pellucid.explore import wording
from pellucid.pretrain.monitor import ACQUISITION, FAINT, INK, SOFT

MUTED = "#8a929c"
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
_SVG_POINTS = 4000  # above, WebGL draws: SVG needs a node for each point
_RIM = {"width": 0.4, "color": "#ffffff"}

TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": (
                "'Source Sans', Inter, 'Source Sans 3', 'Source Sans Pro', 'Segoe UI', Roboto, Helvetica, "
                "Arial, sans-serif"
            ),
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
    shown = values.map(wording.level_text).astype(object)
    present = shown[~shown.isin([wording.MISSING, wording.UNASSIGNED])]
    frequent = present.value_counts().index.tolist()
    if len(frequent) > most:
        rest = set(frequent[most - 1 :])
        other = f"other ({len(rest)} levels)"
        shown = shown.where(~shown.isin(rest), other)
        frequent = [*frequent[: most - 1], other]
    named = sorted((level for level in frequent if not level.startswith("other (")), key=natural_order)
    colours = {level: LEVEL_COLOURS[i % len(LEVEL_COLOURS)] for i, level in enumerate(named)}
    colours |= {level: "#b8c0c9" for level in frequent if level.startswith("other (")}
    if (shown == wording.MISSING).any():
        colours[wording.MISSING] = "#d3d8de"
    if (shown == wording.UNASSIGNED).any():
        colours[wording.UNASSIGNED] = "#cbd2d9"
    return shown, colours


def natural_order(text: str) -> list[tuple[int, float, str]]:
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
    size = float(np.clip(220 / max(len(points), 1) ** 0.5, 3.5, 10))
    texts = pd.Series("", index=points.index) if hover is None else hover
    if continuous:
        figure = go.Figure(_continuous_traces(points, values, name, texts, size))
    else:
        figure = go.Figure(_level_traces(points, values, texts, size))
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


def _continuous_traces(points: pd.DataFrame, values: pd.Series, name: str, texts: pd.Series, size: float) -> list[Any]:
    """A trace for images without a value, and one on a colour scale between the 2nd and 98th percentile."""
    numbers = pd.to_numeric(values, errors="coerce")
    missing = numbers.isna().to_numpy()
    traces = []
    pale: dict[str, Any] = {"size": size, "opacity": 0.9, "line": _RIM, "color": "#d3d8de"}
    if missing.any():
        traces.append(_points(len(points), points[missing], texts[missing], pale, wording.MISSING, legend=False))
    if not missing.all():
        low, high = (float(bound) for bound in numbers.quantile([0.02, 0.98]))
        title = wording.for_plotly(wording.readable_name(name))
        scale = {
            "color": numbers[~missing].to_numpy(float),
            "colorscale": "Cividis",
            "cmin": low,
            "cmax": high if high > low else low + 1,
            "colorbar": {
                "title": {"text": title, "side": "top"},
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
        label = wording.readable_name(name)
        traces.append(_points(len(points), points[~missing], texts[~missing], pale | scale, label, legend=False))
    return traces


def _level_traces(points: pd.DataFrame, values: pd.Series, texts: pd.Series, size: float) -> list[Any]:
    """A trace per level; images without a level are drawn first, smaller and paler."""
    shown, colours = levels_and_colours(values)
    counts = shown.value_counts()
    last = [level for level in colours if level in {wording.MISSING, wording.UNASSIGNED}]
    traces = []
    for level in [*last, *[level for level in colours if level not in last]]:
        rows = (shown == level).to_numpy()
        pale = level in last
        marker = {
            "size": size * (0.8 if pale else 1),
            "opacity": 0.7 if pale else 0.88,
            "line": _RIM,
            "color": colours[level],
        }
        label = f"{wording.for_plotly(level, 28)} ({counts[level]:,})"
        traces.append(_points(len(points), points[rows], texts[rows], marker, label, legend=True))
    return traces


def _points(n: int, rows: pd.DataFrame, texts: pd.Series, marker: dict[str, Any], name: str, *, legend: bool) -> Any:
    """Markers of some of the map's `n` images."""
    return (go.Scatter if n <= _SVG_POINTS else go.Scattergl)(
        x=rows["x"].to_numpy(float).round(3),
        y=rows["y"].to_numpy(float).round(3),
        customdata=rows["key"].tolist(),
        text=texts.tolist(),
        marker=marker,
        name=name,
        showlegend=legend,
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": marker["opacity"]}},
        mode="markers",
        hovertemplate="%{text}<extra></extra>",
    )


def shares_figure(table: Mapping[str, Mapping[str, int]], clinical: str, acquisition: str) -> go.Figure:
    """For each level of a factor, the share of patients at each clinical level.

    Args:
        table: acquisition level → clinical level → number of patients.
    """
    frame = pd.DataFrame(table).T.fillna(0)
    frame = frame.loc[sorted(frame.index, key=lambda level: natural_order(str(level)))]
    totals = frame.sum(axis=1)
    shares = frame.div(totals.where(totals > 0, 1), axis=0)
    figure = go.Figure()
    labels = [f"{wording.for_plotly(str(level), 24)}  (n = {int(totals[level])})  " for level in frame.index]
    for i, level in enumerate(sorted(frame.columns, key=lambda level: natural_order(str(level)))):
        counts = frame[level].astype(int)
        figure.add_trace(
            go.Bar(
                y=labels,
                x=shares[level],
                orientation="h",
                name=wording.for_plotly(str(level), 28),
                marker={"color": LEVEL_COLOURS[i % len(LEVEL_COLOURS)], "line": {"width": 1, "color": "#ffffff"}},
                text=[str(n) if share >= 0.06 else "" for n, share in zip(counts, shares[level], strict=True)],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": _on(LEVEL_COLOURS[i % len(LEVEL_COLOURS)]), "size": 13},
                customdata=counts,
                hovertemplate="%{y}: %{customdata} patients, %{x:.0%}"
                + f"<extra>{wording.for_plotly(str(level), 28)}</extra>",
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
            "title": {"text": wording.for_plotly(wording.readable_name(clinical)) + "  ", "font": {"size": 13}},
            "traceorder": "normal",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
        margin={"b": 84},
    )
    return figure


def _on(colour: str) -> str:
    """Black or white, the one that is readable on `colour` (relative luminance, WCAG 2)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#ffffff" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.3 else INK


def factor_figure(factor: Mapping[str, Any]) -> go.Figure:
    """Patients per level of one acquisition factor."""
    levels = sorted(factor.get("levels") or [], key=lambda item: natural_order(wording.level_text(item["level"])))
    names = [wording.for_plotly(wording.level_text(item["level"]), 28) + "  " for item in levels]
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


def note_figure(sentence: str) -> go.Figure:
    """A sentence in place of a figure."""
    figure = go.Figure()
    figure.add_annotation(text=wording.for_plotly(sentence, 200), showarrow=False, font={"size": 15, "color": SOFT})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(template=TEMPLATE, height=90)
    return figure
