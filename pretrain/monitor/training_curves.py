"""Curves of metrics.jsonl and watch.jsonl, shared by the training page and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pellucid.pretrain.monitor.svg_curves import ACQUISITION, CLINICAL, Curve, number

Lines = Sequence[Mapping[str, Any]]


def training_curves(metrics: Lines, *, dim: int | None, steps: int, log_k: float | None = None) -> list[Curve]:
    """Curves of the training metrics, the most important first; only those that the method reports.

    Args:
        dim: of the features.
        log_k: log of the number of the teacher's outputs.
    """

    def points(name: str) -> list[tuple[float, float]]:
        return [(float(line["step"]), float(line[name])) for line in metrics if line.get(name) is not None]

    even = (1 / math.sqrt(dim), "evenly spread") if dim else None
    information = [
        (step, max(0.0, log_k - kl - entropy))
        for (step, entropy), (_, kl) in zip(points("teacher_entropy"), points("teacher_kl_uniform"), strict=True)
        if log_k is not None
    ]
    curves = [
        Curve("Loss", points("loss"), "The minimised value. Comparable only within one method.", CLINICAL),
        Curve("Effective rank", points("effective_rank"), ("RankMe: number of directions that the features use. "
                                                          "Higher is better.")),
        Curve(
            "Centred rank", points("centred_rank"),
            "Effective rank after the mean is subtracted: number of directions in which images differ.",
        ),
        Curve(
            "Feature spread", points("feature_std"),
            "Standard deviation of the normalised features. Near 0, all images have the same features.", reference=even,
        ),
        Curve("Alignment", points("alignment"), ("Distance between two views of an image. Lower is better if "
                                                "uniformity does not rise.")),
        Curve("Uniformity", points("uniformity"), "0: all features are equal. Near −4: spread over the whole sphere."),
        Curve(
            "Teacher information", information,
            "Information of the teacher's output about the image, in nats. At 0, all images have the same output.",
        ),
        Curve(
            "Teacher entropy", points("teacher_entropy"),
            "Uncertainty of the teacher about one image, in nats.", reference=(log_k, "uniform") if log_k else None,
        ),
        Curve(
            "Prototype imbalance", points("teacher_kl_uniform"),
            "How unevenly the batch uses the prototypes, in nats. 0: all equally.",
        ),
        Curve("Gradient norm", points("grad_norm"), "Before clipping."),
        Curve("Learning rate", points("lr"), "The schedule.", linear=True),
    ]  # fmt: skip
    known = {
        "step", "images", "loss", "lr", "weight_decay", "grad_norm", "feature_std", "effective_rank", "centred_rank",
        "uniformity", "alignment", "teacher_entropy", "teacher_kl_uniform", "teacher_momentum", "teacher_temp",
    }  # fmt: skip
    others = dict.fromkeys(name for line in metrics for name in line if name not in known)
    parts = [name for name in others if name.endswith("_loss")]
    curves[1:1] = [Curve(_plain(name), points(name), "One term of the loss.", CLINICAL) for name in parts]
    return [_until(curve, steps) for curve in curves if curve.points]


def watch_curves(lines: Lines, *, steps: int) -> dict[str, list[Curve]]:
    """One curve per variable, with interval and chance level, in the groups `clinical` (with outcomes) and
    `acquisition`."""
    found: dict[str, list[Curve]] = {"clinical": [], "acquisition": []}
    for name in dict.fromkeys(str(line["variable"]) for line in lines):
        of = [line for line in lines if line["variable"] == name]
        scored = [line for line in of if line.get("score") is not None]
        if not scored:
            continue
        last, auroc = scored[-1], scored[-1]["metric"] == "auroc"
        group = "acquisition" if last["role"] == "acquisition" else "clinical"
        metric = "AUROC" if auroc else "Spearman correlation"
        shown = _two(last["score"])
        if last.get("ci_low") is not None:
            shown += f" ({_two(last['ci_low'])} to {_two(last['ci_high'])})"
        low = min(float(line["score"]) for line in scored)
        limits = (min(0.4, low), 1.0) if auroc else (min(-0.2, low), 1.0)
        note = f"; {last['note']}" if last.get("note") else ""
        found[group].append(
            Curve(
                _plain(name),
                [(float(line["step"]), float(line["score"])) for line in scored],
                f"{metric}, {last['patients']} patients{note}",
                ACQUISITION if group == "acquisition" else CLINICAL,
                band=[
                    (float(i["step"]), float(i["ci_low"]), float(i["ci_high"]))
                    for i in scored
                    if i.get("ci_low") is not None
                ],
                reference=(float(last["chance"]), "chance level"),
                limits=limits,
                steps=steps,
                last=shown,
                markers=True,
            )
        )  # fmt: skip
    return found


def watch_sentences(lines: Lines) -> list[str]:
    """How each group changed from the first monitoring step to the last, and which variables were not scored."""
    sentences = []
    for role, names in (("acquisition", "acquisition factors"), ("clinical", "clinical variables")):
        moved = []
        for name in dict.fromkeys(str(line["variable"]) for line in lines):
            scored = [line for line in lines if line["variable"] == name and line.get("score") is not None]
            group = "acquisition" if scored and scored[0]["role"] == "acquisition" else "clinical"
            if len(scored) < 2 or group != role or scored[0]["step"] == scored[-1]["step"]:
                continue
            first, last = scored[0], scored[-1]
            if _apart(first, last):
                word = "better" if last["score"] > first["score"] else "worse"
                moved.append(
                    f"{_plain(name).lower()} is now predicted {word} ({_two(first['score'])} → {_two(last['score'])})"
                )
        if moved:
            sentences.append(f"{names[0].upper() + names[1:]}: " + "; ".join(moved) + ".")
    refused = {
        _plain(str(line["variable"])).lower(): str(line["note"])
        for line in lines
        if line.get("score") is None and line.get("note")
    }
    if refused:
        sentences.append("Not scored: " + "; ".join(f"{name} ({note})" for name, note in refused.items()) + ".")
    return sentences


def _apart(first: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether neither score is inside the other's interval: a notable change, but not a test."""
    if first.get("ci_low") is None or last.get("ci_low") is None:
        return False
    inside = first["ci_low"] <= last["score"] <= first["ci_high"] or last["ci_low"] <= first["score"] <= last["ci_high"]
    return not inside


def _two(score: float) -> str:
    return f"{score:.2f}".replace("-", "−")


def _plain(name: str) -> str:
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def _until(curve: Curve, steps: int) -> Curve:
    last = number(float(curve.points[-1][1]))
    return replace(curve, steps=steps, last=last)
