"""Plotly figures of the source audit, the same for the report and the explorer: sections of source.json in, a `Figure`
out.

Blue is clinical, vermilion is acquisition, grey is neither; quality grades have three separate colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pellucid.explore import wording
from pellucid.explore.figures.map_figures import LEVEL_COLOURS, MUTED, TEMPLATE, natural_order
from pellucid.pretrain.monitor import ACQUISITION, CLINICAL, FAINT, INK

GRADE_COLOURS = {"good": "#cfe3da", "borderline": "#f0c674", "poor": "#b4472e"}
_BAR_PX = 32
_MOST_LINES = 6


def _colour(role: str) -> str:
    return {"acquisition": ACQUISITION, "clinical": CLINICAL, "outcome": CLINICAL}.get(role, MUTED)


def events_figure(factor: Mapping[str, Any], variable: str) -> go.Figure:
    """Patients per level of a factor; the dark part counts those with the event."""
    levels = sorted(factor["levels"], key=lambda item: natural_order(wording.level_text(item["level"])))
    names = [wording.for_plotly(wording.level_text(item["level"]), 26) + "  " for item in levels]
    events = [int(item["events"][variable]["patients"]) for item in levels]
    known = [int(item["events"][variable]["known"]) for item in levels]
    patients = [int(item["patients"]) for item in levels]
    event = (
        wording.for_plotly(f"{wording.readable_name(variable)} = {levels[0]['events'][variable]['event']}", 34)
        if levels
        else ""
    )
    figure = go.Figure()
    bars = [
        (events, event, ACQUISITION),
        ([p - e for p, e in zip(patients, events, strict=True)], "other patients", "#f3cfb5"),
    ]
    for values, name, colour in bars:
        figure.add_trace(
            go.Bar(y=names, x=values, orientation="h", name=name, marker={"color": colour}, hoverinfo="skip")
        )
    labels = [f" {e} of {k} ({e / k:.0%})" if k else f" {p}" for p, e, k in zip(patients, events, known, strict=True)]
    label: dict[str, Any] = {"mode": "text", "textposition": "middle right", "hoverinfo": "skip", "showlegend": False}
    figure.add_trace(go.Scatter(x=patients, y=names, text=labels, textfont={"size": 13}, cliponaxis=False, **label))
    figure.update_xaxes(
        range=[0, max([*patients, 1]) * 1.45], nticks=4, title={"text": "patients", "font": {"size": 13}}
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return _bars(figure, len(levels))


def images_per_patient_figure(section: Mapping[str, Any], variable: str) -> go.Figure:
    """Share of patients with 1, 2, … images, a line for each level of a variable (all patients if it has none)."""
    test = next((item for item in section.get("tests", []) if item["variable"] == variable), None)
    levels = [level for level in (test or {}).get("levels", []) if level["patients"] >= 2][:_MOST_LINES]
    series = [(f"{level['level']} (n = {level['patients']})", level["histogram"]) for level in levels]
    series = series or [("all patients", section["histogram"])]
    longest = max(len(histogram) for _, histogram in series)
    ticks = [str(i + 1) for i in range(longest)]
    if section.get("histogram_last_holds_more") and longest == 12:
        ticks[-1] = "12 +"
    figure = go.Figure()
    for i, (name, histogram) in enumerate(series):
        total = sum(histogram) or 1
        shares = [count / total for count in histogram] + [0.0] * (longest - len(histogram))
        colour = MUTED if len(series) == 1 else LEVEL_COLOURS[i % len(LEVEL_COLOURS)]
        figure.add_trace(
            go.Bar(
                x=ticks,
                y=shares,
                name=wording.for_plotly(name, 30),
                marker={"color": colour},
                hovertemplate="%{x} image(s): %{y:.0%} of patients<extra></extra>",
            )
        )
    figure.update_xaxes(type="category", title={"text": "images per patient", "font": {"size": 13}}, showgrid=False)
    figure.update_yaxes(
        tickformat=".0%", rangemode="tozero", nticks=5, title={"text": "share of patients", "font": {"size": 13}}
    )
    figure.update_layout(template=TEMPLATE, height=280, barmode="group", bargap=0.25, margin={"b": 84})
    return _legend_below(figure, wording.readable_name(variable) if levels else "")


def grades_figure(entry: Mapping[str, Any]) -> go.Figure:
    """Shares of good, borderline and poor images at each level of a variable, each patient counting once."""
    levels = sorted(entry["levels"], key=lambda item: natural_order(wording.level_text(item["level"])))
    names = [
        f"{wording.for_plotly(wording.level_text(item['level']), 24)}  (n = {item['patients']})  " for item in levels
    ]
    figure = go.Figure()
    for grade, colour in GRADE_COLOURS.items():
        figure.add_trace(
            go.Bar(
                y=names,
                x=[item[grade] for item in levels],
                orientation="h",
                name=grade,
                marker={"color": colour, "line": {"width": 1, "color": "#ffffff"}},
                text=[f"{item[grade]:.0%}" if item[grade] >= 0.07 else "" for item in levels],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"color": "#ffffff" if grade == "poor" else INK, "size": 13},
                hovertemplate="%{y}: %{x:.1%}<extra>" + grade + "</extra>",
            )
        )
    figure.update_xaxes(
        range=[0, 1], tickformat=".0%", nticks=5, title={"text": "share of images", "font": {"size": 13}}
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    return _bars(figure, len(levels))


def periods_figure(periods: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Patients (bars) and images (line) in each year, quarter or month."""
    names = [entry["period"] for entry in periods]
    figure = go.Figure(
        go.Bar(x=names, y=[entry["patients"] for entry in periods], name="patients", marker={"color": ACQUISITION})
    )
    images = [entry["images"] for entry in periods]
    line = {"width": 2, "color": MUTED}
    figure.add_trace(go.Scatter(x=names, y=images, name="images", mode="lines+markers", line=line, marker={"size": 6}))
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(rangemode="tozero", nticks=5)
    figure.update_layout(template=TEMPLATE, height=260, bargap=0.35, hovermode="x", margin={"b": 64})
    return _legend_below(figure, "")


def course_figure(test: Mapping[str, Any]) -> go.Figure:
    """One variable over time: the share of each level, or the median and the middle half of a number."""
    course = test["course"]
    names = [entry["period"] for entry in course]
    figure = go.Figure()
    if course and "shares" in course[0]:
        levels = list(dict.fromkeys(level for entry in course for level in entry["shares"]))
        levels = [level for level in levels if level != "no"] if set(levels) == {"yes", "no"} else levels
        if len(levels) > _MOST_LINES:
            levels = sorted(levels, key=lambda lv: -sum(entry["shares"].get(lv, 0) for entry in course))[:_MOST_LINES]
        for i, level in enumerate(sorted(levels, key=natural_order)):
            line = {"width": 2.5, "color": LEVEL_COLOURS[i % len(LEVEL_COLOURS)]}
            label = wording.for_plotly(test["variable"] if level == "yes" else str(level), 28)
            shares = [entry["shares"].get(level, 0) for entry in course]
            figure.add_trace(
                go.Scatter(x=names, y=shares, name=label, mode="lines+markers", line=line, marker={"size": 7})
            )
        figure.update_yaxes(
            tickformat=".0%", rangemode="tozero", title={"text": "share of patients", "font": {"size": 13}}
        )
    else:
        low = [entry["quartiles"][0] for entry in course]
        high = [entry["quartiles"][1] for entry in course]
        band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_trace(go.Scatter(x=names, y=low, **band))
        figure.add_trace(go.Scatter(x=names, y=high, fill="tonexty", fillcolor="#dce9f2", **band))
        middle = [entry["median"] for entry in course]
        line = {"width": 2.5, "color": CLINICAL}
        figure.add_trace(go.Scatter(x=names, y=middle, name="median over patients; band: middle half", line=line))
        figure.update_yaxes(
            title={"text": wording.for_plotly(wording.readable_name(test["variable"]), 24), "font": {"size": 13}}
        )
        figure.update_layout(showlegend=True)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(nticks=5)
    figure.update_layout(template=TEMPLATE, height=260, margin={"b": 64})
    return _legend_below(figure, "")


def missing_figure(gaps: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Share of patients without each variable."""
    shown = sorted((gap for gap in gaps if gap["n_images"]), key=lambda gap: -gap["n_patients"])
    names = [wording.for_plotly(wording.readable_name(gap["variable"]), 28) + "  " for gap in shown]
    figure = go.Figure(
        go.Bar(
            y=names,
            x=[gap["share_of_patients"] for gap in shown],
            orientation="h",
            marker={"color": [_colour(gap["role"]) for gap in shown]},
            text=[
                f"{gap['share_of_patients']:.0%}  ({gap['n_patients']} patients, {gap['n_images']} images)"
                for gap in shown
            ],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    most = max([gap["share_of_patients"] for gap in shown], default=0.1)
    figure.update_xaxes(visible=False, range=[0, most * 2.2])
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_layout(template=TEMPLATE, height=_BAR_PX * len(shown) + 24, bargap=0.3, showlegend=False)
    return figure


def missing_by_figure(test: Mapping[str, Any]) -> go.Figure:
    """Share of patients without one variable at each level of another."""
    levels = sorted(test["levels"], key=lambda item: natural_order(wording.level_text(item["level"])))
    names = [
        f"{wording.for_plotly(wording.level_text(item['level']), 24)}  (n = {item['patients']})  " for item in levels
    ]
    figure = go.Figure(
        go.Bar(
            y=names,
            x=[item["share"] for item in levels],
            orientation="h",
            marker={"color": _colour(test["role"])},
            text=[f"{item['share']:.0%}" for item in levels],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    most = max([item["share"] for item in levels], default=0.1)
    figure.update_xaxes(visible=False, range=[0, max(most, 0.05) * 1.25])
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_layout(template=TEMPLATE, height=_BAR_PX * len(levels) + 24, bargap=0.3, showlegend=False)
    return figure


def balance_figure(side: Mapping[str, Any], reference: str) -> go.Figure:
    """Each variable's standardised difference between a part of the split and training; grey is expected by chance."""
    rows = sorted(side["variables"], key=lambda item: -item["difference"])
    names = [wording.for_plotly(wording.readable_name(item["variable"]), 28) + "  " for item in rows]
    figure = go.Figure()
    figure.add_vrect(x0=0, x1=side["chance"], fillcolor=FAINT, opacity=0.6, line_width=0, layer="below")
    figure.add_trace(
        go.Scatter(
            x=[item["difference"] for item in rows],
            y=names,
            mode="markers",
            marker={"size": 11, "color": [_colour(item["role"]) for item in rows]},
            customdata=[wording.for_plotly(str(item["level"] or "mean"), 28) for item in rows],
            hovertemplate="%{customdata}: %{x:.2f}<extra></extra>",
            showlegend=False,
        )
    )
    top = max([item["difference"] for item in rows] + [side["chance"], 0.1])
    title = f"{side['side']} compared with {reference}, in standard deviations"
    figure.update_xaxes(
        range=[0, top * 1.1], title={"text": wording.for_plotly(title, 60), "font": {"size": 13}}, nticks=5
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(template=TEMPLATE, height=28 * max(len(rows), 1) + 60)
    return figure


def burned_in_figure(entry: Mapping[str, Any]) -> go.Figure:
    """Share of images with text in the pixels at each level of a factor."""
    levels = [{**level, "patients": level["images"]} for level in entry["levels"]]
    return missing_by_figure({"levels": levels, "role": "acquisition"})


def _bars(figure: go.Figure, n: int) -> go.Figure:
    figure.update_layout(
        template=TEMPLATE, barmode="stack", bargap=0.3, height=_BAR_PX * max(n, 1) + 96, margin={"b": 70}
    )
    return _legend_below(figure, "")


def _legend_below(figure: go.Figure, title: str) -> go.Figure:
    legend: dict[str, Any] = {"y": 0, "yref": "container", "yanchor": "bottom", "traceorder": "normal"}
    if title:
        legend["title"] = {"text": wording.for_plotly(title) + "  ", "font": {"size": 13}}
    figure.update_layout(legend=legend)
    return figure
