"""A study.yaml from somebody else costs one sentence with its place, never memory, time or a secret."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pellucid.cohort.config import read_yaml
from pellucid.cohort.errors import UserError

LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_yaml(path, overrides)
    return str(caught.value).replace(str(path), "study.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "study.yaml, line 1: anchors and aliases (`&a`) are not read: write the value at each place"),
        ("images: x\nb: *a\n", "study.yaml, line 2: anchors and aliases (`*a`) are not read"),
        ("images: *.png\n", "put a text that begins with * or & into quotes"),
        ("images: x\na: " + "[" * 5000, "study.yaml, line 2: nested more than 20 deep"),
        ("a: " + "{b: " * 5000, "nested more than 20 deep"),
        ("images: a\npatient: b\nimages: c\n", "study.yaml, line 3: the key `images` is also in line 1: remove one"),
        ("a: 1\nb: " + "9" * 5000, "line 2: `9999999999999999999999999999999999999999` cannot be read as int"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a:\n\tb: 1\n", "study.yaml, line 2: not valid YAML"),
        ("a: 0x" + "f" * 9000, "cannot be read as int"),
        ("a: !!map [b]\n", "line 1: not valid YAML: expected a mapping node, but found sequence"),
        ("!!map b\n", "line 1: not valid YAML: expected a mapping node, but found scalar"),
        ("a: !!set {b}\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a: !!timestamp 2021-03-04\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a: !!float x\n", "line 1: `x` cannot be read as float"),
        ("- a\n", "study.yaml: expected `key: value` lines at the top level"),
    ],
)
def test_what_is_not_read_is_a_sentence_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    ["${oc.env:PELLUCID_SECRET}", "x/${oc.env:PELLUCID_SECRET}", "${${b}:PELLUCID_SECRET}", "${oc.decode:'1'}", "${b"],
)
def test_only_our_own_interpolations_exist(tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_SECRET", "hunter2")
    said = refusal(tmp_path, f"b: oc.env\nembed:\n  a: [1, {value!r}]\n")
    assert said.startswith("study.yaml: `embed.a[1]`: ")
    assert "only ${from_env:NAME}, ${from_env:NAME,default} and ${key} are replaced" in said
    assert "hunter2" not in said
    assert "are replaced" in refusal(tmp_path, "b: oc.env\n", f"embed.a={value}")


def test_interpolations_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_DISK", "/disk")
    path = tmp_path / "study.yaml"
    path.write_text(
        "root: ${from_env:PELLUCID_DISK}/a\nseed: 3\nb: ${root}/b\nc: {d: '${seed}'}\ne: ${c.f}\n", encoding="utf-8"
    )
    found = read_yaml(path, ["c.f=${from_env:PELLUCID_NOT_SET,x}"])
    assert found == {"root": "/disk/a", "seed": 3, "b": "/disk/a/b", "c": {"d": 3, "f": "x"}, "e": "x"}


@pytest.mark.parametrize("text", ["a: ${a}\n", "a: ${b}\nb: ${a}\n", "a: ${nothing}\n", "a: ${b}\nb: [1]\n"])
def test_a_reference_that_leads_nowhere_or_round_is_named(tmp_path: Path, text: str) -> None:
    assert "there is no such key that holds one text or number" in refusal(tmp_path, text)


def test_interpolation_cannot_fill_the_memory(tmp_path: Path) -> None:
    assert "`b`: becomes longer than 4096 characters" in refusal(tmp_path, f"a: {'x' * 900}\nb: {'${a}' * 9}\n")


def test_a_day_is_text_and_a_merge_without_alias_works(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 2020-02-30\n<<: {b: 2}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": "2020-02-30", "b": 2}


def test_a_pipe_is_no_study(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(UserError, match=r"study\.yaml: is not a file"):
        read_yaml(tmp_path / "study.yaml")


def test_overrides_are_read_with_the_same_care(tmp_path: Path) -> None:
    for override, said in (
        ("a=[&x 1, *x]", "on the command line: `a`, line 1: anchors and aliases"),
        ("a=" + "[" * 500, "nested more than 20 deep"),
        (".".join("a" * 40) + "=1", "nested more than 20 deep"),
        ("a=b: c: d", "on the command line: `a`, line 1: not valid YAML"),
    ):
        assert said in refusal(tmp_path, "a: 1\n", override)


def test_a_time_is_a_text_and_a_long_one_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("level: 12:30\nlong: 1" + ":1" * 200_000 + "\n", encoding="utf-8")
    began = time.monotonic()
    found = read_yaml(path)
    assert found["level"] == "12:30", "not 750, as YAML 1.1 has it"
    assert isinstance(found["long"], str)
    assert time.monotonic() - began < 5, "numbers in base 60 take minutes"
