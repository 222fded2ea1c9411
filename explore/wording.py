"""Numbers and names as readers see them, in the same words in every figure, the report and the explorer."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pellucid.cohort.study import as_level

# Clusters are explored and tested, never announced as discoveries.
CLUSTER_SENTENCE = (
    "We explored image phenotype clusters and evaluated their relationship with clinical variables and outcomes."
)
UNASSIGNED = "no cluster"
MISSING = "not recorded"

# phenotype → (more of it, less of it); the measures themselves are cohort/measures/phenotypes.py
_PHENOTYPES: dict[str, tuple[str, str]] = {
    "brightness": ("brighter", "darker"),
    "contrast": ("more contrast", "less contrast"),
    "shadows": ("paler shadows", "deeper shadows"),
    "highlights": ("brighter highlights", "dimmer highlights"),
    "skewness": ("more bright parts on dark ground", "more dark parts on bright ground"),
    "redness": ("redder", "less red"),
    "yellowness": ("yellower", "less yellow"),
    "saturation": ("stronger colours", "paler colours"),
    "colour variation": ("more varied colours", "more even colours"),
    "erythema": ("more erythema", "less erythema"),
    "sharpness": ("sharper", "blurrier"),
    "entropy": ("more varied", "more uniform"),
    "texture contrast": ("coarser texture", "smoother texture"),
    "texture homogeneity": ("more even texture", "rougher texture"),
    "texture correlation": ("texture in larger patches", "texture in smaller grains"),
    "edges": ("more edges", "fewer edges"),
    "vessels": ("more vessel-like dark lines", "fewer vessel-like dark lines"),
    "reflection": ("more reflections", "fewer reflections"),
    "vignetting": ("a darker rim", "a brighter rim"),
    "field": ("less black border", "more black border"),
}


def level_text(value: Any) -> str:
    """A level of a variable as text: whole numbers without `.0`, missing values as words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    text = as_level(value)
    return MISSING if text in {"<NA>", "NaT", "nan", "None", ""} else text


def readable_name(name: str) -> str:
    """A column name as a label: `scanner_model` → `scanner model`."""
    return re.sub(r"[_\s]+", " ", name.removeprefix("phenotype_")).strip()


def for_plotly(text: str, longest: int = 40) -> str:
    """Text that Plotly shows unchanged: its labels interpret tags and links, and cells of a table are not trusted."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return html.escape(short, quote=False)


def for_markdown(text: str) -> str:
    """Text that Markdown shows unchanged: a table's cell becomes no link, image, formula or coloured span."""
    # A bare address becomes a link whatever is escaped; an invisible word joiner inside it prevents that.
    broken = re.sub(r"(?i)(?:https?|ftp)(?=:)|www(?=\.)|@", "\\g<0>\u2060", text)
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:&-])", r"\\\1", broken)


def without_backticks(text: str) -> str:
    """A sentence of the command line for a page: `names` in quotation marks."""
    return re.sub(r"`([^`]*)`", "“\\1”", text)


def phenotype_words(name: str, difference: float) -> str:
    """`("phenotype_sharpness", -0.9)` → `much blurrier`; differences are in standard deviations of patients."""
    label = readable_name(name)
    more, less = _PHENOTYPES.get(label, (f"more {label}", f"less {label}"))
    size = abs(difference)
    strength = "much " if size >= 1.2 else "" if size >= 0.8 else "somewhat "
    return strength + (more if difference > 0 else less)


def number(value: float | None, digits: int = 2) -> str:
    """A number with a proper minus sign and no negative zero; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def p_value_text(p: float | None) -> str:
    """A p-value in a sentence: `p = 0.03`, `p < 0.001`."""
    if p is None:
        return "p not estimated"
    return f"p {p_value_cell(p)}" if p < 0.001 else f"p = {p_value_cell(p)}"


def p_value_cell(p: float | None) -> str:
    """A p-value in a column of p-values: `0.03`, `< 0.001`."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else number(p, 3 if p < 0.1 else 2)


def count(n: int, one: str, many: str | None = None) -> str:
    """`count(1, "patient")` → `1 patient`; `count(1200, "patient")` → `1,200 patients`."""
    return f"{n:,} {one if n == 1 else (many or one + 's')}"


def pictures_left_out(n: int, total: int) -> str:
    """What a page that may be shared says of images it does not show (`pellucid.cohort.identifiers.shareable`)."""
    found = (
        f"{n:,} of {count(total, 'image')} show signs of text or of a face and are not shown on this page."
        if n
        else "No image shows signs of text."
    )
    return (
        f"{found} Text is detected by its shape, and some is missed: look at every picture before you share the page."
    )


def score(item: Mapping[str, Any]) -> str:
    """`0.81`; a dash where there is no number."""
    return number(item.get("score"))


def bounds(item: Mapping[str, Any]) -> str:
    """`0.74 to 0.87`; nothing where there is no interval."""
    low, high = item.get("ci_low"), item.get("ci_high")
    return "" if item.get("score") is None or low is None or high is None else f"{number(low)} to {number(high)}"


def interval(item: Mapping[str, Any]) -> str:
    """`0.81 (0.74 to 0.87)`."""
    return f"{score(item)} ({bounds(item)})" if bounds(item) else score(item)


def backbone_label(name: str) -> str:
    """A backbone's name for readers, without folders."""
    kind, _, rest = name.partition(":")
    if kind == "pixels":
        return "plain pixels"
    if kind == "timm-random":
        size = rest.partition("@")[2]
        return f"untrained network, {size} px" if size else "untrained network"
    if kind == "run":
        return re.sub(r"-[0-9a-f]{8}$", "", PurePosixPath(rest.replace("\\", "/").rstrip("/")).name) or "own backbone"
    if kind == "timm":
        return PurePosixPath(rest).name
    return PurePosixPath(name.replace("\\", "/").rstrip("/")).name


def is_baseline(name: str) -> bool:
    """Whether a backbone is a baseline that a trained one has to beat."""
    return name.partition(":")[0] in {"pixels", "timm-random"}


def metric_label(metric: str | None) -> str:
    """A metric's name for an axis."""
    key = (metric or "auroc").lower()
    if "auroc" in key or "auc" in key:
        return "AUROC"
    return {"r2": "R²", "spearman": "Spearman correlation", "concordance": "Concordance"}.get(key, readable_name(key))


def chance(scale: str) -> float:
    """The chance level on this scale (`metric_label`)."""
    return 0.5 if scale in {"AUROC", "Concordance"} else 0.0


def measure_label(measure: str | None) -> str:
    """An association's measure for readers."""
    key = (measure or "").lower()
    if "cram" in key:
        return "Cramér's V"
    if "eta" in key or "η" in key:
        return "η²"
    return {"spearman": "Spearman's ρ", "r2": "R²"}.get(key, readable_name(measure or "association"))


def listing(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""
