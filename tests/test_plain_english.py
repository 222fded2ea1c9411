"""What a user reads is plain English: README, docs, help, messages, report and explorer hold none of some stilted phrases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cohort", "embed", "pretrain", "probes", "explore", "pellucid")
# What to write instead is in CONTRIBUTING.md.
PHRASES = re.compile(
    r"\b(read(s|ing)? off|(be |is |are |was |were )?told (apart|from)|stands? beside|held against|accus(e|es|ed|ing)|acquit(s|ted|ting)?"
    r"|go(es)? together|went together|whoever|pass(es|ed|ing)? over|sets? aside|setting aside|by lot|mend(s|ed|ing)?|our fault)\b",
    re.IGNORECASE,
)
# Names of configuration and JSON keys may be anything; they are written as code or as a single word.
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# (file, text that surrounds the phrase) → why it stays. At most twenty.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def pages() -> list[Path]:
    templates = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.j2") if "pellucid/" not in str(path)
    ]
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *templates,
    ]


def modules() -> list[Path]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not (package == "pellucid" and path.relative_to(ROOT / "pellucid").parts[0] in PACKAGES):
                found.append(path)
    return found


def sentences(path: Path) -> Iterator[str]:
    """String constants that a person may read: those with a space, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    if path.parent.name == "cli":  # Typer shows the docstrings of commands as help
        docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if " " in node.value:
                yield node.value


def offences(path: Path) -> list[str]:
    texts = [path.read_text(encoding="utf-8")] if path.suffix != ".py" else list(sentences(path))
    found = []
    for text in texts:
        bare = CODE.sub("", text)
        for match in PHRASES.finditer(bare):
            around = " ".join(bare[max(0, match.start() - 40) : match.end() + 40].split())
            if not any(path.relative_to(ROOT).as_posix() == file and part in around for file, part in EXCEPTIONS):
                found.append(f"{path.relative_to(ROOT).as_posix()}: … {around} …")
    return found


@pytest.mark.parametrize("kind", ["pages", "messages"])
def test_nothing_stilted(kind: str) -> None:
    found = [one for path in (pages() if kind == "pages" else modules()) for one in offences(path)]
    assert not found, "\n".join(found)


def test_exceptions_are_few_and_needed() -> None:
    assert len(EXCEPTIONS) <= 20
    for file, part in EXCEPTIONS:
        assert part in " ".join((ROOT / file).read_text(encoding="utf-8").split()), (file, part)


def test_a_stilted_sentence_would_be_found(tmp_path: Path) -> None:
    assert PHRASES.search("The device was read off the embedding")
    assert PHRASES.search("factors that go together with it")
    assert not PHRASES.search("we recommend amended rules and read offsets")
