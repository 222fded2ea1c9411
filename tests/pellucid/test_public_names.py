"""The Python face: every command has a documented function, and every public name is found where one looks for it."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import pellucid as public
from pellucid.cli.app import app
from pellucid.cohort.errors import UserError

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    "demo": "run_demo",
    "init": "draft_study",
    "scan": "scan_study",
    "deidentify": "deidentify_study",
    "pretrain": "pretrain_study",
    "embed": "embed_study",
    "search": "search_study",
    "near": "near_study",
    "cluster": "cluster_study",
    "probe": "probe_study",
    "audit": "audit_study",
    "take-out": "erase_factor",
    "report": "report_study",
    "explore": "explore_study",
    "run": "run_study",
    "export": "export_study",
    "forget": "withdraw_patients",
    "status": "study_status",
    "tidy": "tidy_study",
}


def test_every_command_has_its_function() -> None:
    assert {command.name for command in app.registered_commands} == set(FUNCTIONS)
    assert set(FUNCTIONS.values()) <= set(public.__all__)


def test_public_names_are_listed_once_sorted_and_shadow_no_package() -> None:
    assert public.__all__ == sorted(set(public.__all__))
    assert set(public.__all__) <= set(dir(public))
    assert not {"cohort", "embed", "pretrain", "probes", "explore", "api", "cli", "pipeline"} & set(public.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", public.__version__)
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        _ = public.embedd


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "pellucid" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = [
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(name for _, name in imported) == public.__all__


@pytest.mark.parametrize("name", public.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(public, name)
    text = inspect.getdoc(thing)
    assert text, name
    first, *rest = text.splitlines()
    assert first.endswith("."), name
    if name in FUNCTIONS.values() and name.endswith("_study"):
        assert "Returns:" in text, name
        assert "Raises:" in text or name == "study_status", name
    assert not rest or rest[0] == "", f"{name}: one line first"


@pytest.mark.parametrize("name", sorted(n for n in FUNCTIONS.values() if n not in {"run_demo", "draft_study"}))
def test_functions_of_a_study_take_a_path_and_overrides(name: str, tmp_path: Path) -> None:
    parameters = inspect.signature(getattr(public, name)).parameters
    assert next(iter(parameters)) == "study"
    assert "overrides" in parameters
    needed = {"deidentify_study": ("out", "linkage"), "search_study": ("a.png",), "erase_factor": ("device",),
              "export_study": ("parquet", tmp_path / "o.parquet")}.get(name, ())  # fmt: skip
    with pytest.raises(UserError, match=r"no such file; `pellucid init FOLDER` drafts a study\.yaml"):
        getattr(public, name)(tmp_path / "nowhere", *needed)


def test_a_loaded_study_takes_no_overrides(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("images: .\npatient: none\n", encoding="utf-8")
    study = public.load_study(tmp_path)
    with pytest.raises(UserError, match="already loaded; pass overrides and config to load_study"):
        public.scan_study(study, ["split.test=0.3"])


def test_help_is_a_first_page() -> None:
    page = pydoc.plain(pydoc.render_doc(public))
    for name in public.__all__:
        assert name in (public.__doc__ or "") or name in {"Study"}, name
        assert name in page
    assert "pellucid.run_study(" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in public.__all__:
        assert f"`{name}`" in readme, f"README does not name {name}"
