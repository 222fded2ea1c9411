"""What a user reads avoids a list of phrases that the field would not use (CONTRIBUTING.md, "Plain English").

`python tests/test_plain_english.py` lists every place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pellucid", "cohort", "embed", "pretrain", "probes", "explore")


def _verb(forms: str, particle: str) -> str:
    """A verb and its particle, also with an object between them: "read off", "reads it off"."""
    return rf"({forms})(-| | (it|them|this|that|these|those|each|one|both|all|two) ){particle}"


FORBIDDEN = {
    "read off": _verb("read|reads|reading", "off"),
    "told apart": _verb("tell|tells|telling|told", "apart"),
    "stands beside": _verb("stand|stands|standing|stood", "beside"),
    "held against": _verb("hold|holds|holding|held", "against"),
    "accused": r"accus(e|es|ed|ing|ation|ations)",
    "acquitted": r"acquit(s|ted|ting|tal|tals)?",
    "goes together with": r"(go|goes|going|gone|went) together with",
    "whoever": r"who(so)?ever|whomever",
    "passed over": r"(?<!\bone )(?<!\ba )"
    + _verb("pass|passes|passing|passed", "over"),  # "one pass over the files" may stay
    "set aside": _verb("set|sets|setting", "asides?"),
    "by lot": r"by lot",
    "mend": r"mend(s|ed|ing)?",
    "our fault": r"our faults?|faults? of ours",
}
PATTERN = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)" for i, p in enumerate(FORBIDDEN.values())), re.IGNORECASE)

# (file, phrase): reason. Names of commands, options, and configuration and JSON keys need no entry: see
# `_without_names`.
EXCEPTIONS: dict[tuple[str, str], str] = {}


class Place(NamedTuple):
    file: str
    line: int
    phrase: str
    text: str


def _without_names(text: str) -> str:
    """The text without names in code style (`accused`, `audit.further`): they are part of file formats."""
    return re.sub(r"`[\w.\[\]=:-]+`", "``", text)


def _found(file: str, line: int, text: str) -> Iterator[Place]:
    flat = re.sub(r"\s+", " ", _without_names(text))
    for match in PATTERN.finditer(flat):
        phrase = list(FORBIDDEN)[int(str(match.lastgroup)[1:])]
        yield Place(file, line, phrase, flat[max(0, match.start() - 40) : match.end() + 40])


def _in_text_file(path: Path) -> Iterator[Place]:
    """One paragraph or table row at a time, so that a phrase is found across a line break."""
    line, block = 1, ""
    name = path.relative_to(ROOT).as_posix()
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".j2":  # without style sheets, Jinja code and class names, which nobody reads
        content = re.sub(r"<style>.*?</style>|\{[{%].*?[}%]\}", _only_line_breaks, content, flags=re.DOTALL)
        content = re.sub(r"class=\"[^\"]*\"", "", content)
    for number, row in enumerate([*content.splitlines(), ""], start=1):
        row = row.lstrip().removeprefix("# ") if path.suffix in {".yaml", ".sbatch"} else row
        if not row.strip() or row.lstrip().startswith(("|", "- ", "#")):
            yield from _found(name, line, block)
            line, block = number, ""
        block += row + "\n"
    yield from _found(name, line, block)


def _only_line_breaks(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n") or "…"


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) if isinstance(value, ast.Constant) else "…" for value in node.values)
    return ""


def _in_python(path: Path) -> Iterator[Place]:
    """Every string with a space in it (one without is a key or a name), docstrings included: `help()` shows them."""
    name = path.relative_to(ROOT).as_posix()
    parts: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in parts and " " in (text := _text(node)):
            yield from _found(name, node.lineno, text)


def _text_files() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md"))
    yield from sorted((ROOT / "docs").glob("*.md"))
    yield from sorted((ROOT / "configs").rglob("*.yaml"))
    yield from sorted((ROOT / "slurm").glob("*.sbatch"))
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.j2"))


def _python_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (p for p in sorted((ROOT / package).rglob("*.py")) if not (package == "pellucid" and _linked(p)))


def _linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def places() -> list[Place]:
    """Every forbidden phrase that a user can meet, exceptions left out."""
    found = [place for path in _text_files() for place in _in_text_file(path)]
    found += [place for path in _python_files() for place in _in_python(path)]
    return [place for place in found if (place.file, place.phrase) not in EXCEPTIONS]


def test_no_forbidden_phrase_is_shown_to_users() -> None:
    found = places()
    assert not found, "\n".join(f"{p.file}:{p.line}: {p.phrase}: … {p.text} …" for p in found)


def test_few_exceptions() -> None:
    assert len(EXCEPTIONS) <= 20
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(
    "text",
    [
        "The device is read off the embedding.",
        "It reads it off.",
        "The pairs were told\napart.",
        "beside it stands beside that",
        "factors are Accused",
        "acquits nobody",
        "device goes together with diagnosis",
        "whoever computes",
        "3 images were passed over",
        "the set-asides of a scan",
        "assigned by lot",
        "what a person can mend",
        "1 our fault",
        "a fault of ours",
    ],
)
def test_phrases_are_found_in_every_form(text: str) -> None:
    assert list(_found("x", 1, text))


@pytest.mark.parametrize(
    "text",
    [
        "we recommend the amended commendable form",
        "the key `accused` of audit.json",
        "a set of files, and aside from that",
        "Overheld againstness",
        "lots of images",
        "one pass over the originals",
        "the backward pass sums over processes",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert not list(_found("x", 1, text))


if __name__ == "__main__":
    for place in places():
        print(f"{place.file}:{place.line}: {place.phrase}: … {place.text} …")
