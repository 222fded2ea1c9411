"""What makes two vectors comparable, as one hash, and a sentence that says what differs where they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pellucid.cohort.errors import UserError

# Everything that changes a vector by more than rounding. What it was computed in (bfloat16, float32) does not.
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
    "per_patient",  # how the vectors of a patient's images became one
)
_WORDS = {
    "fingerprint": "the weights",
    "size_px": "the side of the square in pixels",
    "input_px": "the side of what the network takes in pixels",
    "fit": "how an image is fitted to the square",
    "mean": "the mean of the pixels",
    "std": "the standard deviation of the pixels",
    "unit": "what one vector stands for",
    "per_patient": "how images become one patient's vector",
}
_ADDED_IN_2 = {"mean", "std"}  # pellucid.vectors/1 did not say them; its weights went with one mean only


def completed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of `pellucid.vectors/1`, or one in part, with the keys of /2 as they were meant then; and its `space`."""
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
    """Hex sha256 over what makes two vectors comparable (`SPACE_KEYS`; a key that is missing counts as null)."""
    said = {key: _plain(spec.get(key)) for key in SPACE_KEYS}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One phrase for each key by which two specs are of different spaces; none if their vectors may be compared.

    What a spec of the first version did not say is not held against it.
    """
    a, b = completed(a), completed(b)
    found = []
    for key in SPACE_KEYS:
        if key in _ADDED_IN_2 and (key not in a or key not in b):
            continue
        one, other = _plain(a.get(key)), _plain(b.get(key))
        if one != other:
            found.append(f"{_WORDS.get(key, f'`{key}`')} ({_short(one)} against {_short(other)})")
    return found


def same_space(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Refuse to compare or mix vectors of two spaces.

    Args:
        a, b: what `spec.json` says of each (`Vectors.spec`, `Backbone.spec()`).

    Raises:
        UserError: they differ; the message says in which keys.
    """
    found = differences(a, b)
    if found:
        names = [str(spec.get("backbone", "vectors without a name")) for spec in (a, b)]
        both = f"two kinds of `{names[0]}`" if names[0] == names[1] else f"`{names[0]}` and `{names[1]}`"
        raise UserError(
            f"the vectors of {both} cannot be compared or put into one index; they differ in: {'; '.join(found)}. "
            "Embed both with the same backbone and the same `embed:` section"
        )


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "not said" if value is None else str(value)
