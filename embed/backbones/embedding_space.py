"""One hash over everything that makes two vectors comparable, and a message that lists the differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pellucid.cohort.errors import UserError

# Everything that changes a vector by more than rounding. The number type (bfloat16, float32) does not.
SPACE_KEYS = (
    "fingerprint",  # sha256 of the weights
    "size_px",
    "input_px",
    "fit",
    "pooling",
    "layers",
    "average",
    "mean",
    "std",
    "unit",  # image or patient
    "per_patient",  # rule that combines the vectors of a patient's images
)
_WORDS = {
    "fingerprint": "the weights",
    "size_px": "the side of the square in pixels",
    "input_px": "the side of the network's input in pixels",
    "fit": "how an image is fitted to the square",
    "mean": "the mean of the pixels",
    "std": "the standard deviation of the pixels",
    "unit": "the unit of one vector (image or patient)",
    "per_patient": "the rule for one vector per patient",
}
_ADDED_IN_2 = {"mean", "std"}  # not recorded in pellucid.vectors/1, where every backbone had a single mean


def completed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys of `pellucid.vectors/2` to a spec of version 1, or to a partial one, and its `space`."""
    full = dict(spec)
    full.setdefault("fit", "stretch")
    full.setdefault("input_px", full.get("size_px"))
    is_network = full.get("pooling", "none") != "none"
    full.setdefault("pooling", "none")
    full.setdefault("layers", "last" if is_network else "none")
    full.setdefault("average", "none")
    full.setdefault("unit", "image")
    full.setdefault("normalised", False)
    full["space"] = space_of(full)
    return full


def space_of(spec: Mapping[str, Any]) -> str:
    """Hex sha256 over the `SPACE_KEYS` of a spec; a missing key counts as null."""
    values = {key: _plain(spec.get(key)) for key in SPACE_KEYS}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One phrase for each key in which the spaces of two specs differ; empty if their vectors may be compared.

    Keys that version 1 did not record are not compared.
    """
    a, b = completed(a), completed(b)
    found = []
    for key in SPACE_KEYS:
        if key in _ADDED_IN_2 and (key not in a or key not in b):
            continue
        first, second = _plain(a.get(key)), _plain(b.get(key))
        if first != second:
            found.append(f"{_WORDS.get(key, f'`{key}`')} ({_short(first)} and {_short(second)})")
    return found


def same_space(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Refuse to compare or mix vectors of two spaces.

    Args:
        a, b: the two specs (`Vectors.spec`, `Backbone.spec()`).

    Raises:
        UserError: the spaces differ; the message lists the keys.
    """
    found = differences(a, b)
    if found:
        names = [str(spec.get("backbone", "vectors without a name")) for spec in (a, b)]
        both = f"two versions of `{names[0]}`" if names[0] == names[1] else f"`{names[0]}` and `{names[1]}`"
        raise UserError(
            f"the vectors of {both} cannot be compared or put into one index; they differ in {'; '.join(found)}. "
            "Embed both with the same backbone and the same `embed:` section"
        )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "not recorded" if value is None else str(value)
