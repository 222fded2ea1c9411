"""The source audit in reading order, the same for report and explorer.

Each section of source.json becomes a title, a line on how to read it, its sentences, small figures and tables. Sections
that an older scan does not have are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from pellucid.cohort.source_audit import ALPHA
from pellucid.explore import wording
from pellucid.explore.figures import map_figures, source_figures
from pellucid.explore.study_findings import NearDuplicateFindings

OPEN = 4
MOST_PAIRS = 8
MOST_UNUSUAL = 12
_NEVER = 2.0  # sorts after every q


@dataclass(frozen=True)
class Drawing:
    """A figure, computed only when it is shown."""

    title: str
    figure: Callable[[], go.Figure]


@dataclass(frozen=True)
class Table:
    """A small table of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Pictures:
    """Images to compare side by side."""

    title: str
    images: Sequence[tuple[str, str]]  # image_id, caption


@dataclass(frozen=True)
class Section:
    """One question and its answer."""

    key: str
    title: str
    lead: str = ""
    sentences: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)  # the strongest association first
    tables: list[Table] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)
    n_open: int = OPEN  # drawings shown at once; the others are folded

    @property
    def any(self) -> bool:
        return bool(self.sentences or self.drawings or self.tables or self.pictures)


def sections(
    source: Mapping[str, Any], quarantined: Mapping[str, int], near: NearDuplicateFindings | None = None
) -> list[Section]:
    """The sections that have content, in reading order.

    Args:
        source: the content of source.json.
        quarantined: reason → number of files.
        near: near duplicates and unusual images, found by the vectors.
    """
    texts = dict(source.get("sections") or {"images": source.get("sentences") or []})
    found = [
        _collected(source, texts),
        _sample_size(source, texts),
        _associations(source, texts),
        _per_patient(source, texts),
        _quality(source, texts),
        _calendar(source, texts),
        _missing(source, texts),
        _duplicates(source, texts),
        *_by_vectors(near),
        _privacy(source, texts),
        _splits(source, texts),
        Section(
            "quarantined",
            "Quarantined files",
            "These files were not used. manifest.parquet in the folder of the scan lists each of them."
            if quarantined
            else "",
            tables=[Table("", ("Reason", "Files"), [(reason, f"{n:,}") for reason, n in quarantined.items()])]
            if quarantined
            else [],
        ),
    ]
    return [section for section in found if section.any]


def _title(name: str, by: str = "") -> str:
    label = wording.readable_name(name) + (f" by {wording.readable_name(by)}" if by else "")
    return label[:1].upper() + label[1:]


def _drawing(title: str, draw: Callable[..., go.Figure], *arguments: Any) -> Drawing:
    return Drawing(title, lambda: draw(*arguments))


def _strength(test: Mapping[str, Any]) -> tuple[float, float]:
    """Sort key: by q, then by size."""
    q = test.get("q_value")
    return (_NEVER if q is None else float(q), -abs(test.get("value") or 0.0))


def _collected(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    drawings = []
    event = ""
    for factor in source.get("factors") or []:
        if not factor.get("levels"):
            continue
        events = factor["levels"][0].get("events") or {}
        event = next(iter(events), "")
        if event:
            drawings.append(_drawing(_title(factor["name"]), source_figures.events_figure, factor, event))
        else:
            drawings.append(_drawing(_title(factor["name"]), map_figures.factor_figure, factor))
    rows = [
        (
            wording.readable_name(c["name"].removeprefix("header_")),
            f"{c['n_levels']}",
            ", ".join(map(wording.readable_name, c["same_as"])) or "–",
        )
        for c in source.get("candidates") or []
    ]
    tables = (
        [Table("Header fields that are not in study.yaml", ("Field", "Levels", "Same groups as"), rows)] if rows else []
    )
    lead = (
        f"Patients at each level of an acquisition factor. The dark part and the numbers count the patients with "
        f"{wording.readable_name(event)}."
        if event
        else ""
    )
    return Section(
        "there", "What was collected", lead, [*texts.get("images", []), *texts.get("factors", [])], drawings, tables
    )


def _sample_size(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    sizes = source.get("sample_size") or []
    sides = list(dict.fromkeys(side for size in sizes for side in size["by_split"]))
    rows = []
    for size in sizes:
        event = f" = {wording.level_text(size['event'])}" if size["event"] is not None else ""
        row = [
            wording.readable_name(size["variable"]) + event,
            _events(size),
            f"{size['n_images']:,}",
            _half_width(size),
        ]
        rows.append((*row, *(_side(size["by_split"].get(side)) for side in sides)))
    columns = ("Variable", "Patients", "Images", "Expected 95 % interval", *(f"in {side}" for side in sides))
    lead = (
        "The number of patients decides, not the number of images. The expected interval is its half-width with this "
        "many patients: for an AUROC (area under the receiver operating characteristic curve) of 0.80 (Hanley and "
        "McNeil 1982), or for a correlation near 0."
    )
    return Section(
        "enough", "Are there enough patients?", lead if rows else "", texts.get("sample_size", []),
        tables=[Table("", columns, rows)] if rows else [],
    )  # fmt: skip


def _events(size: Mapping[str, Any] | None) -> str:
    if not size:
        return "–"
    if size["event"] is None:
        return f"{size['n_patients']:,}"
    return f"{size['n_events']:,} of {size['n_patients']:,}"


def _side(size: Mapping[str, Any] | None) -> str:
    return f"{_events(size)}, {_half_width(size)}" if size else "–"


def _half_width(size: Mapping[str, Any]) -> str:
    return f"± {size['half_width']:.2f}" if size["half_width"] is not None else (size["word"] or "–")


def _associations(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    tables = sorted((item for item in source.get("associations") or [] if item.get("table")), key=_strength)
    drawings = [
        _drawing(
            _title(item["clinical"], item["acquisition"]),
            map_figures.shares_figure, item["table"], item["clinical"], item["acquisition"],
        )
        for item in tables
    ]  # fmt: skip
    lead = "Rows that look alike mean no association. Numbers are patients."
    sentences = list(texts.get("associations", []))
    if "associations" in texts and not sentences and tables:
        sentences = [
            f"No association between a clinical variable or outcome and an acquisition factor was found "
            f"({source.get('n_patients')} patients, {len(tables)} pairs tested)."
        ]
    n_open = _open(tables, 2)
    return Section(
        "entangled", "Who was imaged with what", lead if drawings else "", sentences, drawings, n_open=n_open
    )


def _per_patient(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    per = source.get("images_per_patient") or {}
    several = [t for t in per.get("tests") or [] if len(t["levels"]) > 1]
    tests = sorted(several, key=lambda t: _by_role(t, (_strength(t)[0], len(t["levels"]))))
    shown = [
        _drawing(
            _title("images per patient", test["variable"]),
            source_figures.images_per_patient_figure,
            per,
            test["variable"],
        )
        for test in tests
    ]
    sentences = list(texts.get("images_per_patient", []))
    if tests and not sentences:
        sentences = ["No association between the number of images and any variable was found."]
    return Section("per-patient", "Images per patient", "", sentences, shown, n_open=_open(tests, 2))


def _open(tests: Sequence[Mapping[str, Any]], least: int) -> int:
    """How many drawings to show at once: those with a significant test, between `least` and four."""
    return min(max(sum(_strength(test)[0] <= ALPHA for test in tests), least), OPEN)


def _by_role(test: Mapping[str, Any], strength: tuple[float, float]) -> tuple[bool, int, tuple[float, float]]:
    order = {"outcome": 0, "clinical": 1}
    return (strength[0] > ALPHA, order.get(str(test["role"]), 2), strength)


def _quality(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    quality = source.get("quality") or {}
    best = {
        test["variable"]: _by_role(test, _strength(test))
        for test in sorted(quality.get("tests") or [], key=_strength, reverse=True)
    }
    drawings, by = [], []
    if quality.get("graded"):
        by = [entry for entry in quality.get("by") or [] if len(entry["levels"]) > 1]
        by.sort(key=lambda entry: best.get(entry["variable"], (True, 3, (_NEVER, 0.0))))
        drawings = [_drawing(_title("quality", entry["variable"]), source_figures.grades_figure, entry) for entry in by]
    lead = "Rows that look alike mean no association with image quality. Each patient counts once." if drawings else ""
    significant = sum(not best[entry["variable"]][0] for entry in by if entry["variable"] in best) if drawings else 0
    n_open = min(max(significant, 2), OPEN)
    return Section(
        "quality", "Does image quality differ between groups?", lead, texts.get("quality", []), drawings, n_open=n_open
    )


def _calendar(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    calendar = source.get("calendar") or {}
    periods = calendar.get("periods") or []
    if len(periods) < 2:
        return Section("calendar", "Does anything change over time?")
    drawings = [_drawing(_title(calendar["variable"]), source_figures.periods_figure, periods)]
    tests = sorted((t for t in calendar["tests"] if len(t["course"]) > 1 and t["p_value"] is not None), key=_strength)
    drawings += [_drawing(_title(t["variable"]) + " over time", source_figures.course_figure, t) for t in tests]
    n_open = min(1 + _open(tests, 1), OPEN)
    return Section(
        "calendar", "Does anything change over time?", "", texts.get("calendar", []), drawings, n_open=n_open
    )


def _missing(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    gaps = [{"share_of_patients": 0.0, **gap} for gap in source.get("missing") or [] if gap.get("n_images")]
    if not gaps:
        return Section("missing", "What is missing, and in whom?")
    drawings = []
    if all(gap["share_of_patients"] for gap in gaps):
        drawings.append(_drawing("Patients without a value", source_figures.missing_figure, gaps))
    tests = [t for t in (source.get("missingness") or {}).get("tests") or [] if _strength(t)[0] <= ALPHA]
    drawings += [
        _drawing(
            f"{_title(' and '.join(t['variables'])[:40])} missing, by {wording.readable_name(t['against'])}",
            source_figures.missing_by_figure, t,
        )
        for t in sorted(tests, key=_strength)
        if len(t["levels"]) > 1
    ]  # fmt: skip
    return Section("missing", "What is missing, and in whom?", "", texts.get("missing", []), drawings)


def _duplicates(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    duplicates = source.get("duplicates") or {}
    found = duplicates.get("to_look_at") or []
    rows = [
        (", ".join(group["patients"]), ", ".join(group["splits"]), f"{group['images']}", group["kind"] or "–")
        for group in found[:12]
    ]
    title = "Groups to check" + (f" (the first 12 of {len(found)})" if len(found) > 12 else "")
    tables = [Table(title, ("Patients", "Part of the split", "Images", "Kind"), rows)] if rows else []
    asked = duplicates.get("to_ask") or []
    if asked:
        n_asked = duplicates["n_questions"]
        title = "Pairs that may be copies" + (f" (the first 12 of {n_asked})" if n_asked > 12 else "")
        tables.append(Table(title, ("Patients",), [(" and ".join(who),) for who in asked[:12]]))
    return Section("duplicates", "Duplicates", "", texts.get("duplicates", []), tables=tables)


def _by_vectors(near: NearDuplicateFindings | None) -> list[Section]:
    """What the vectors add: rotated, mirrored and cropped copies, and unusual images."""
    if near is None:
        return []
    pairs = [_pair(pair, "") for pair in near.pairs.drop_duplicates("group").head(MOST_PAIRS).to_dict("records")]
    asked = [_pair(pair, "a copy? ") for pair in near.questions.head(MOST_PAIRS - len(pairs)).to_dict("records")]
    first = near.unusual.drop_duplicates("patient").head(MOST_UNUSUAL).to_dict("records")
    shown = [(row["image_id"], f"{row['patient']}, {row['times_usual']:.1f} × the usual distance") for row in first]
    return [
        Section(
            "near",
            "Is the same image filed under two patients?",
            f"Candidates come from the embedding ({near.backbone}); each pair was then compared on the pixels. The "
            "first pair of each group is shown, with the part of the split in brackets."
            if pairs or asked
            else f"Candidates come from the embedding ({near.backbone}).",
            near.sentences[:-1] if len(near.unusual) else near.sentences,
            pictures=pairs + asked,
        ),
        Section(
            "unusual",
            "Unusual images",
            f"For each patient, the image with the largest distance to all images of other patients in the embedding "
            f"({near.backbone}). Unusual does not mean diseased: check for a wrong body region, a test image or a "
            "faulty device.",
            pictures=[Pictures("", shown)] if shown else [],
        ),
    ]  # fmt: skip


def _pair(pair: Mapping[Any, Any], question: str) -> Pictures:
    sides = [(pair[f"{o}image_id"], _whose(pair[f"{o}patient"], pair[f"{o}split"])) for o in ("", "other_")]
    return Pictures(f"{question}{pair['how']}, similarity {pair['similarity']:.2f}", sides)


def _whose(patient: str, split: str) -> str:
    return f"{patient} ({split})" if split else str(patient)


def _privacy(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    found = (source.get("privacy") or {}).get("findings") or []
    rows = [
        (wording.readable_name(item["finding"]), f"{item['patients']:,}", f"{item['images']:,}") for item in found[:12]
    ]
    burned = source.get("burned_in") or {}
    drawings = []
    if burned.get("images"):
        by = [entry for entry in burned.get("by_factor") or [] if _range(entry["levels"]) >= 0.1]
        by.sort(key=lambda entry: -_range(entry["levels"]))
        drawings = [
            _drawing(_title("text in the image", entry["factor"]), source_figures.burned_in_figure, entry)
            for entry in by[:2]
        ]
    tables = [Table("Findings", ("Finding", "Patients", "Images"), rows)] if rows else []
    return Section("privacy", "Privacy", "", texts.get("privacy", []), drawings, tables)


def _range(levels: Sequence[Mapping[str, Any]]) -> float:
    shares = [float(level["share"]) for level in levels if level["images"] >= 10]
    return max(shares) - min(shares) if shares else 0.0


def _splits(source: Mapping[str, Any], texts: Mapping[str, list[str]]) -> Section:
    balance = source.get("split_balance") or {}
    sides = [side for side in balance.get("sides") or [] if side["variables"]]
    drawings = [
        _drawing(
            _title(f"{side['side']} compared with {balance['reference']}"),
            source_figures.balance_figure,
            side,
            balance["reference"],
        )
        for side in sides
    ]
    rows = [(str(side), f"{n['patients']:,}", f"{n['images']:,}") for side, n in (source.get("splits") or {}).items()]
    tables = [Table("", ("Part", "Patients", "Images"), rows)] if len(rows) > 1 else []
    lead = (
        "Differences inside the grey band are expected by chance when patients are assigned at random."
        if drawings
        else ""
    )
    return Section(
        "splits", "Are training and test patients comparable?", lead, texts.get("splits", []), drawings, tables
    )
