"""Findings → the HTML of the report: one self-contained page that needs no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pellucid.cohort.manifest import named_columns
from pellucid.cohort.runs import RunFolder
from pellucid.explore import wording
from pellucid.explore.figures import map_figures, probe_figures
from pellucid.explore.sections import source_sections, verdict_cards
from pellucid.explore.sections.audit_tables import further_tables
from pellucid.explore.study_findings import (
    EmbeddedBackbone,
    Findings,
    private_names,
    scrub,
    study_title,
)
from pellucid.explore.thumbnails import data_uri, thumbnails
from pellucid.pretrain.export import training_sentences
from pellucid.pretrain.monitor import (
    CSS_VARIABLES,
    PAGE,
    SCRIPT,
    STYLE,
    WATCH_LINES,
    read_lines,
    training_curves,
    watch_curves,
    watch_sentences,
)

MOST_POINTS = 2500  # per map; more make the page slow, not clearer
MOST_PANELS = 6
MOST_PAIRS = 8  # in the figure; the table lists all pairs
MOST_SOURCE_FIGURES = 14  # of one section of the source audit; the explorer shows all of them
MOST_CLUSTERS = 24
FEW_PATIENTS = 30  # below this, a warning at the top of the report
_PANEL_HEIGHT = 380


def render(findings: Findings, parents: Sequence[RunFolder] = ()) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "readable_name": wording.readable_name,
        "number": wording.number,
        "p": wording.p_value_cell,
        "level": wording.level_text,
    }
    page = environment.get_template("report.html.j2")
    return page.render(
        title=study_title(findings.study),
        plotly_js=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        script=Markup("script"),
        palette=Markup(CSS_VARIABLES),
        head=_head(findings),
        learned=_learned(findings),
        source=_source(findings),
        clusters=_clusters(findings),
        maps=_maps(findings),
        training=_training(findings),
        methods=_methods(findings),
        provenance=_provenance(findings, parents),
        cluster_sentence=wording.CLUSTER_SENTENCE,
    )


class _Figures:
    """Figures as HTML, each with an id that is the same on every rendering."""

    @staticmethod
    def html(figure: go.Figure, name: str) -> Markup:
        text = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=re.sub(r"[^a-z0-9-]+", "-", f"figure-{name}".lower()),
            config={"displayModeBar": False, "responsive": True, "showTips": False},
        )
        return Markup(text)


def _head(findings: Findings) -> dict[str, Any]:
    images, patients = len(findings.images), int(findings.images["patient"].nunique())
    warnings = []
    if patients < FEW_PATIENTS:
        warnings.append(
            f"Only {wording.count(patients, 'patient')}: too few for firm conclusions. "
            "Intervals are wide, and absence of a finding is not evidence of absence."
        )
    if findings.study.config.patient == "none":
        warnings.append(
            "Patients are not known: every image counts as a separate patient, so intervals are too narrow."
        )
    n_hidden = int(findings.images["image_id"].isin(findings.hidden).sum())
    return {
        "images": images,
        "patients": patients,
        "pictures": wording.pictures_left_out(n_hidden, images),
        "backbones": [backbone.label for backbone in findings.backbones if not backbone.baseline],
        "warnings": warnings,
    }


def _learned(findings: Findings) -> dict[str, Any]:
    audit = findings.audit
    variables = audit.get("variables") or []
    probes = findings.probes or ({findings.audited: variables} if variables else {})
    found = verdict_cards.verdicts(audit)
    neighbours = probe_figures.by_neighbours(probes)
    return {
        "audited": wording.backbone_label(findings.audited) if findings.audited else "",
        "headline": verdict_cards.headline(found),
        "cards": [v for v in found if v.tone in verdict_cards.CONFOUNDED],
        "cleared": [v for v in found if v.tone == "cleared"],
        "cleared_factors": verdict_cards.by_factor([v for v in found if v.tone == "cleared"]),
        "neutral": [v for v in found if v.tone == "neutral"],
        "saturated": wording.listing(
            list(
                dict.fromkeys(
                    wording.readable_name(v["name"]) for rows in probes.values() for v in rows if v.get("saturated")
                )
            )
        ),
        "probe_figure": _Figures.html(probe_figures.probe_figure(probes), "probes") if probes else None,
        "knn_figure": _Figures.html(probe_figures.probe_figure(neighbours), "neighbours") if neighbours else None,
        "refused": [
            f"{wording.readable_name(v['name'])}: {str(v['note']).rstrip('.')}"
            for v in next(iter(probes.values()), [])
            if v.get("score") is None and v.get("note")
        ],
        "pair_figures": _pair_figures(found, variables),
        "further": further_tables(
            [verdict.pair for verdict in found], audit.get("text_masked"), verdict_cards.n_open(found)
        ),
        "pairs_open": verdict_cards.n_open(found),
        "pairs": [_pair_row(verdict, variables) for verdict in found],
        "rows": [
            {
                "variable": wording.readable_name(v["name"]),
                "role": v.get("role", ""),
                "backbone": wording.backbone_label(name),
                "baseline": wording.is_baseline(name),
                "score": wording.interval(v) if v.get("score") is not None else v.get("note", ""),
                "knn": wording.interval(v["knn"]) if v.get("knn") else "–",
                "metric": wording.metric_label(v.get("metric")),
                "chance": v.get("chance"),
                "p": wording.p_value_cell(v.get("p_value")) if v.get("score") is not None else "",
                "q": v.get("q_value"),
                "patients": v.get("n_patients"),
                "events": v.get("n_events"),
                "detectable": v.get("detectable"),
                "note": v.get("note") or "",
            }
            for name in sorted(probes, key=wording.is_baseline)
            for v in probes[name]
        ],
    }


def _pair_figures(found: Sequence[verdict_cards.Verdict], variables: Sequence[dict[str, Any]]) -> list[Markup]:
    pairs = verdict_cards.worth_drawing(found, MOST_PAIRS)
    drawn = [(scale, probe_figures.pair_figure(pairs, variables, scale)) for scale in probe_figures.scales(variables)]
    return [_Figures.html(figure, f"pairs-{scale}") for scale, figure in drawn if figure is not None]


def _pair_row(verdict: verdict_cards.Verdict, variables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    overall = {str(v["name"]): v for v in variables}
    pair = verdict.pair
    association = pair.get("association") or {}

    def both(target: str, key: str) -> dict[str, str]:
        beyond = pair.get(key) or {}
        return {
            "overall": wording.score(overall.get(target, {})),
            "overall_interval": wording.bounds(overall.get(target, {})),
            "beyond": wording.score(beyond) if beyond.get("score") is not None else str(beyond.get("note") or "–"),
            "beyond_interval": wording.bounds(beyond),
            "p": wording.p_value_text(beyond["p_value"]) if beyond.get("p_value") is not None else "",
        }

    return {
        "clinical": verdict.clinical,
        "acquisition": verdict.acquisition,
        "tone": verdict.tone,
        "label": verdict.label,
        "association": "–"
        if association.get("value") is None
        else f"{wording.measure_label(association.get('measure'))} {wording.number(association['value'])}",
        "patients": association.get("n_patients"),
        "association_p": wording.p_value_text(association["p_value"]) if association.get("p_value") is not None else "",
        "clinical_scores": both(verdict.clinical, "clinical_beyond_acquisition"),
        "acquisition_scores": both(verdict.acquisition, "acquisition_beyond_clinical"),
    }


def _pictures(findings: Findings, image_ids: Sequence[str]) -> dict[str, str]:
    """image_id → address with the image's bytes. Every picture of the page comes from here, without hidden images."""
    wanted = [image_id for image_id in image_ids if image_id not in findings.hidden]
    return {i: data_uri(jpeg) for i, jpeg in thumbnails(findings.scan.path, wanted, 168).items()}


def _source(findings: Findings) -> dict[str, Any]:
    source = findings.source
    reasons = findings.problem_images["reason"].replace("", "no row in the table").value_counts()
    shown = []
    quarantined = {str(reason): int(n) for reason, n in reasons.items()}
    sections = source_sections.sections(source, quarantined, findings.near)
    small = _pictures(findings, [i for section in sections for row in section.pictures for i, _ in row.images])
    for section in sections:
        drawn = [
            {"title": drawing.title, "figure": _Figures.html(drawing.figure(), f"source-{section.key}-{i}")}
            for i, drawing in enumerate(section.drawings[:MOST_SOURCE_FIGURES])
        ]
        left = len(section.drawings) - len(drawn)
        shown.append(
            {
                "section": section,
                "open": drawn[: section.n_open],
                "more": drawn[section.n_open :],
                "left": left,
                "pictures": [
                    {
                        "title": row.title,
                        "images": [(small.get(i, ""), caption) for i, caption in row.images],
                    }
                    for row in section.pictures
                ],
            }
        )
    return {"problems": source.get("problems") or [], "sections": shown, "splits": source.get("splits") or {}}


def _shown_backbone(findings: Findings) -> EmbeddedBackbone | None:
    return next((backbone for backbone in findings.backbones if backbone.clusters is not None), None)


def _clusters(findings: Findings) -> dict[str, Any]:
    backbone = _shown_backbone(findings)
    if backbone is None or backbone.clusters is None:
        return {"any": False}
    content = backbone.clusters.read_json("clusters.json")
    shown = content["clusters"][:MOST_CLUSTERS]
    pictures = _pictures(findings, [image_id for item in shown for image_id in item["medoids"]])
    captions = dict(zip(findings.images["image_id"], findings.images["caption"], strict=True))
    for item in shown:
        item["pictures"] = [{"uri": pictures[i], "caption": captions[i]} for i in item["medoids"] if i in pictures]
    ranked = sorted(content["associations"], key=lambda item: -(item["value"] or 0))
    return {
        "any": True,
        "backbone": backbone.label,
        "sentences": content["sentences"][1:],
        "items": shown,
        "left_out": len(content["clusters"]) - len(shown),
        "associations": [
            {**item, "measure": wording.measure_label(item["measure"]) if item["measure"] else ""} for item in ranked
        ],
    }


def _maps(findings: Findings) -> dict[str, Any]:
    backbone = _shown_backbone(findings)
    if backbone is None or backbone.clusters is None:
        return {"any": False}
    points = pd.read_parquet(backbone.clusters.path / "clusters.parquet").drop(columns=["patient"])
    points = points.merge(findings.images, on="image_id", validate="one_to_one")
    total = len(points)
    if total > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(total, MOST_POINTS, replace=False))
        points = points.iloc[rows].reset_index(drop=True)
    names = np.where(points["cluster"] > 0, "cluster " + points["cluster"].astype(str), wording.UNASSIGNED)
    panels = [
        {"title": "Clusters", "figure": _panel(points, pd.Series(names, index=points.index), False, "cluster", 0)}
    ]
    for variable in _panel_order(findings)[: MOST_PANELS - 1]:
        numeric = pd.api.types.is_numeric_dtype(points[variable.name])
        scale = numeric and (
            variable.kind == "continuous" or (variable.kind == "ordinal" and points[variable.name].nunique() > 8)
        )
        figure = _panel(points, points[variable.name], scale, variable.name, len(panels))
        role = (
            "acquisition factor"
            if variable.role == "acquisition"
            else variable.role + " variable" * (variable.role == "clinical")
        )
        panels.append({"title": f"{wording.readable_name(variable.name).capitalize()} ({role})", "figure": figure})
    return {"any": True, "panels": panels, "total": total, "shown": len(points), "backbone": backbone.label}


def _panel(points: pd.DataFrame, values: pd.Series, scale: bool, name: str, number: int) -> Markup:
    texts = values.map(lambda v: wording.for_plotly(wording.level_text(v)))
    hover = points["caption"] + "<br>" + wording.for_plotly(wording.readable_name(name)) + ": " + texts
    legend_px = 0 if scale else 19 * max(0, (min(values.nunique(), 13) - 3) // 2)  # two entries per line
    figure = map_figures.map_figure(points, values, scale, name, hover=hover, height=_PANEL_HEIGHT + legend_px)
    return _Figures.html(figure, f"map-{number}")


def _panel_order(findings: Findings) -> list[Any]:
    """Variables of the worst pair first, so that the maps by diagnosis and by device can be compared."""
    first = [name for v in verdict_cards.verdicts(findings.audit)[:2] for name in (v.clinical, v.acquisition)]
    place = {name: i for i, name in enumerate(dict.fromkeys(first))}
    return sorted(findings.variables, key=lambda v: place.get(v.name, len(place)))


def _training(findings: Findings) -> dict[str, Any]:
    run = findings.pretrain
    metrics = read_lines(run.path / "metrics.jsonl") if run is not None else []
    if run is None or not metrics:
        return {"any": False}
    # Runs of earlier versions have no health.json and no monitoring; only their curves are shown.
    health = run.read_json("health.json") if (run.path / "health.json").is_file() else {}
    watched = read_lines(run.path / WATCH_LINES)
    steps = int(health.get("steps") or metrics[-1]["step"])
    groups = watch_curves(watched, steps=steps)
    curves = training_curves(metrics, dim=health.get("dim"), steps=steps, log_k=health.get("log_k"))
    asked = next((line for line in watched if line.get("score") is not None), None)
    spec = run.read_json("preprocess.json") if (run.path / "preprocess.json").is_file() else {}
    return {
        "any": True,
        "patients": [re.sub(r"[*`]", "", sentence) for sentence in training_sentences(spec)] if spec else [],
        "name": wording.backbone_label(f"run:{run.path.name}"),
        "health": health,
        "curves": [curve.svg() for curve in curves],
        "acquisition": [curve.svg() for curve in groups["acquisition"]],
        "clinical": [curve.svg() for curve in groups["clinical"]],
        "sentences": watch_sentences(watched),
        "held_out": asked is not None and bool(asked["held_out"]),
        "sheet": (run.path / PAGE).is_file(),
        "style": Markup(STYLE),
        "script": Markup(SCRIPT),
    }


def _methods(findings: Findings) -> dict[str, Any]:
    roles: dict[str, list[str]] = {}
    for variable in findings.study.variables:
        roles.setdefault(variable.role, []).append(f"{wording.readable_name(variable.name)} ({variable.kind})")
    audit = findings.audit
    named = named_columns(findings.study)  # `external` has the staff's own names
    return {
        "roles": {role: ", ".join(names) for role, names in roles.items()},
        "texts": [str(note) for note in audit.get("notes") or []],
        "settings": audit.get("settings") or {},
        "families": audit.get("families") or {},
        "patients": int(findings.images["patient"].nunique()),
        "external": ", ".join(
            f"{wording.readable_name(name)} "
            + (f"({len(levels)} levels)" if name in named else wording.listing([*map(wording.level_text, levels)]))
            for name, levels in findings.study.config.external.items()
        ),
    }


def _provenance(findings: Findings, parents: Sequence[RunFolder]) -> dict[str, Any]:
    names = private_names(pd.read_parquet(findings.scan.path / "manifest.parquet"))
    rows = [
        {
            "stage": run.stage,
            "run": scrub(run.path.name, names),
            "key": run.key[:16],
            "seed": run.record.get("seed"),
            "ended": run.record.get("ended", ""),
        }
        for run in parents
    ]
    versions: dict[str, str] = {}
    for run in parents:
        versions |= run.record.get("versions", {})
    return {"runs": rows, "versions": versions}
