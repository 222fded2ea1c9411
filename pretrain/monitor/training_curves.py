"""Lines of metrics.jsonl and watch.jsonl → small curves, the same for the training sheet and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pellucid.pretrain.monitor.svg_curves import ACQUISITION, CLINICAL, Curve, number

Lines = Sequence[Mapping[str, Any]]


def training_curves(metrics: Lines, *, dim: int | None, steps: int, log_k: float | None = None) -> list[Curve]:
    """The course of a training, what matters most first; what a method does not report is left out.

    Args:
        dim: of the features; log_k: log of the number of the teacher's outputs.
    """

    def points(name: str) -> list[tuple[float, float]]:
        return [(float(line["step"]), float(line[name])) for line in metrics if line.get(name) is not None]

    even = (1 / math.sqrt(dim), "spread evenly") if dim else None
    told = [
        (step, max(0.0, log_k - kl - entropy))
        for (step, entropy), (_, kl) in zip(points("teacher_entropy"), points("teacher_kl_uniform"), strict=True)
        if log_k is not None
    ]
    curves = [
        Curve("Loss", points("loss"), "What is minimised. Lower is better only within one method.", CLINICAL),
        Curve("Effective rank", points("effective_rank"), "RankMe: directions that the features use. Higher is better."),
        Curve(
            "Rank about the mean", points("centred_rank"),
            "The same without what all images share: how many directions tell them apart.",
        ),
        Curve(
            "Feature spread", points("feature_std"),
            "Standard deviation of the features. Near 0 all images look the same to the network.", reference=even,
        ),
        Curve("Alignment", points("alignment"), "Distance of two views of one image. Lower, if uniformity does not rise."),
        Curve("Uniformity", points("uniformity"), "0: all in one place; near −4: spread over the whole sphere."),
        Curve(
            "Teacher's information", told,
            "Nats that the teacher's answers tell of the image. At 0 it gives all images the same answer.",
        ),
        Curve(
            "Teacher's entropy", points("teacher_entropy"),
            "How undecided the teacher is about one image.", reference=(log_k, "says nothing") if log_k else None,
        ),
        Curve(
            "Teacher's bias", points("teacher_kl_uniform"),
            "How unevenly the prototypes are used over the batch. 0: all alike.",
        ),
        Curve("Gradient norm", points("grad_norm"), "Before clipping."),
        Curve("Learning rate", points("lr"), "As planned.", linear=True),
    ]  # fmt: skip
    known = {
        "step", "images", "loss", "lr", "weight_decay", "grad_norm", "feature_std", "effective_rank", "centred_rank",
        "uniformity", "alignment", "teacher_entropy", "teacher_kl_uniform", "teacher_momentum", "teacher_temp",
    }  # fmt: skip
    others = dict.fromkeys(name for line in metrics for name in line if name not in known)
    parts = [name for name in others if name.endswith("_loss")]
    curves[1:1] = [Curve(_plain(name), points(name), "A part of the loss.", CLINICAL) for name in parts]
    return [_until(curve, steps) for curve in curves if curve.points]


def watch_curves(lines: Lines, *, steps: int) -> dict[str, list[Curve]]:
    """`clinical` (outcomes with them) and `acquisition`: a curve per variable, with chance and interval."""
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
                band=[(float(i["step"]), float(i["ci_low"]), float(i["ci_high"])) for i in scored if i.get("ci_low") is not None],
                reference=(float(last["chance"]), "chance"),
                limits=limits,
                steps=steps,
                last=shown,
                markers=True,
            )
        )  # fmt: skip
    return found


def watch_sentences(lines: Lines) -> list[str]:
    """What became of each group between the first look and the last: sentences, and what could not be asked."""
    sentences = []
    for role, names in (("acquisition", "how the image came to be"), ("clinical", "what is known of the patient")):
        moved = []
        for name in dict.fromkeys(str(line["variable"]) for line in lines):
            scored = [line for line in lines if line["variable"] == name and line.get("score") is not None]
            group = "acquisition" if scored and scored[0]["role"] == "acquisition" else "clinical"
            if len(scored) < 2 or group != role or scored[0]["step"] == scored[-1]["step"]:
                continue
            first, last = scored[0], scored[-1]
            if _apart(first, last):
                word = "easier" if last["score"] > first["score"] else "harder"
                moved.append(
                    f"{_plain(name).lower()} has become {word} to tell ({_two(first['score'])}, now {_two(last['score'])})"
                )
        if moved:
            sentences.append(f"{names[0].upper() + names[1:]}: " + "; ".join(moved) + ".")
    refused = {
        _plain(str(line["variable"])).lower(): str(line["note"])
        for line in lines
        if line.get("score") is None and line.get("note")
    }
    if refused:
        sentences.append("Not asked: " + "; ".join(f"{name} ({note})" for name, note in refused.items()) + ".")
    return sentences


def _apart(first: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether neither score lies in the other's interval: a change worth a sentence, though no test."""
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
