"""The rules for files that CONTRIBUTING.md states: short, named once, in rooms of a readable size, without import
circles."""

from __future__ import annotations

import ast
import graphlib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cohort", "embed", "pretrain", "probes", "explore", "pellucid")
MOST_LINES, MOST_FUNCTION_LINES, MOST_IN_PACKAGE, MOST_IN_ROOM = 400, 80, 12, 18
LONG = {"cohort/phantom/drawing.py"}  # a sequence of small drawing functions
REPEATED = {"__init__.py", "stage.py", "command.py", "catalogue.py", "withdrawal.py"}


def modules() -> list[Path]:
    """Every module by its real path, relative to the root; not through the links below pellucid/."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if not (relative.parts[0] == "pellucid" and relative.parts[1] in PACKAGES):
                found.append(relative)
    return found


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES or path.as_posix() in LONG
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES, node.name


def test_a_file_name_occurs_once() -> None:
    places = defaultdict(list)
    for path in modules():
        places[path.name].append(path.as_posix())
    assert {name: paths for name, paths in places.items() if len(paths) > 1 and name not in REPEATED} == {}


def test_rooms_have_a_readable_size() -> None:
    sizes = Counter(path.parent for path in modules() if path.name != "__init__.py")
    limit = {folder: MOST_IN_PACKAGE if len(folder.parts) == 1 else MOST_IN_ROOM for folder in sizes}
    assert {folder: n for folder, n in sizes.items() if n > limit[folder]} == {}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return found & known.keys()


def in_tests() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", in_tests(), ids=str)
def test_tests_use_public_names_and_patch_objects(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pellucid"):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("setattr", "delattr")
        ):
            assert not (node.args and isinstance(node.args[0], ast.Constant)), f"line {node.lineno}: name the object"


def test_no_file_circles() -> None:
    known = {
        ".".join(["pellucid", *[p for p in path.with_suffix("").parts if p not in {"pellucid", "__init__"}]]): path
        for path in modules()
    }
    graph = {name: imports_of(path, known) - {name} for name, path in known.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_rules_would_find_a_circle() -> None:
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
