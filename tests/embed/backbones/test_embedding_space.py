"""What may be compared: the same weights read the same way, and a sentence that names what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.embedding_space import completed, differences, same_space, space_of
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.store.vectors import load_vectors

VIT = "timm-random:test_vit@64"
ARCHIVE = Path(__file__).parents[1] / "archive"


def spec(name: str = VIT, **readout: object) -> dict[str, object]:
    return load_backbone(name, "cpu", ReadoutConfig(**readout)).spec()


def test_every_way_of_reading_is_a_space_of_its_own() -> None:
    ways: list[dict[str, object]] = [
        {}, {"pooling": "cls"}, {"pooling": "mean"}, {"pooling": "gem"}, {"pooling": "cls+mean"},
        {"layers": "last4"}, {"average": "flip"}, {"average": "crops"},
    ]  # fmt: skip
    spaces = [spec(**way)["space"] for way in ways]
    assert len(set(spaces)) == len(ways)
    assert spec(tokens=True)["space"] == spaces[0], "patch tokens beside them change no vector"
    assert spec("timm-random:test_vit@96")["space"] not in spaces


def test_a_spec_is_json_and_says_what_it_must() -> None:
    said = spec(pooling="mean", average="crops", tokens=True)
    assert json.loads(json.dumps(said)) == said
    assert (said["size_px"], said["input_px"], said["fit"], said["pooling"]) == (73, 64, "stretch", "mean")
    assert said["tokens"] == {"grid": [4, 4], "width": 64, "dtype": "float16"}
    assert said["computed_in"] in {"float32", "bfloat16"}
    assert said["space"] == space_of(said)
    assert said["normalised"] is False
    pixels = load_backbone(
        "pixels", readout=ReadoutConfig(pooling="gem", layers="last4", average="flip", tokens=True)
    ).spec()
    assert pixels == load_backbone("pixels").spec(), "there is nothing to choose"


def test_what_it_was_computed_in_and_where_it_lies_is_no_difference() -> None:
    said = spec()
    moved = {**said, "computed_in": "bfloat16", "location": "elsewhere", "backbone": "another name", "made_with": {}}
    same_space(said, moved)
    assert space_of(moved) == said["space"]


def test_the_refusal_names_what_differs() -> None:
    with pytest.raises(UserError) as caught:
        same_space(spec(pooling="mean"), spec(pooling="cls"))
    assert str(caught.value).startswith(
        f"the vectors of two versions of `{VIT}` cannot be compared or put into one index; they differ in "
        "`pooling` (mean and cls). "
    )
    other = differences(spec(), spec("timm-random:test_vit2", pooling="gem", average="flip"))
    assert [phrase.split(" (")[0] for phrase in other] == [
        "the weights", "the side of the square in pixels", "the side of the network's input in pixels", "`pooling`",
        "`average`",
    ]  # fmt: skip


def test_vectors_of_the_first_version_meet_new_ones() -> None:
    """What /1 did not say is not held against it; what it said is."""
    now = spec()
    then = {key: now[key] for key in ("backbone", "fingerprint", "size_px", "fit", "pooling")}
    same_space(then, now)
    with pytest.raises(UserError, match=r"the weights \(0 and"):
        same_space({**then, "fingerprint": "0"}, now)
    with pytest.raises(UserError, match=r"`layers` \(last and last4\)"):
        same_space(then, spec(layers="last4", pooling="cls") | {"pooling": "model"})
    old = load_vectors(ARCHIVE / "vectors-1")
    assert old.spec["schema"] == "pellucid.vectors/1"
    assert (
        old.space == completed(json.loads((ARCHIVE / "vectors-1" / "spec.json").read_text(encoding="utf-8")))["space"]
    )
    assert (old.spec["unit"], old.spec["layers"], old.spec["average"]) == ("image", "none", "none")
