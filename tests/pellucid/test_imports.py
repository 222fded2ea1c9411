"""One import name: no file of the user's is imported instead of ours, and no module is loaded under two names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PACKAGES = ("cohort", "embed", "pretrain", "probes", "explore")
IMPORT_ALL = """
import importlib, pkgutil, sys, pellucid
for module in pkgutil.walk_packages(pellucid.__path__, "pellucid."):
    name = module.name
    if not name.endswith("__main__") and ".screens." not in name and name != "pellucid.explore.app.main":
        importlib.import_module(name)
for name in pellucid.__all__:
    getattr(pellucid, name)
twice = sorted({name.partition(".")[0] for name in sys.modules} & {"cohort", "embed", "pretrain", "probes", "explore"})
ours = [m for n, m in sys.modules.items() if n.partition(".")[0] == "pellucid" and n != "__main__"]
files = [getattr(m, "__file__", None) for m in ours]
print(twice, len(files) > 250, len(files) == len({*files}))
"""
AUDIT = """
import numpy as np, pandas as pd, pellucid
rng = np.random.default_rng(0)
patients = np.repeat(np.arange(40), 2)
table = pd.DataFrame({"patient": patients, "diagnosis": patients % 2, "device": patients // 2 % 2})
found = pellucid.audit(
    rng.normal(size=(80, 4)), table, patient="patient", clinical=["diagnosis"], acquisition=["device"], permutations=19,
    bootstrap=50, folds=2, further=False,
)
print(len(found["pairs"]))
"""


def python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A folder with a user's own files, named like our packages."""
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n", encoding="utf-8")
    return tmp_path


@pytest.mark.long
def test_every_module_is_loaded_under_one_name(notebooks: Path) -> None:
    assert python(IMPORT_ALL, notebooks) == "[] True True"


@pytest.mark.long
def test_an_audit_next_to_files_named_like_our_packages(notebooks: Path) -> None:
    assert python(AUDIT, notebooks) == "1"


@pytest.mark.long
def test_reading_processes_next_to_files_named_like_our_packages(notebooks: Path) -> None:
    (notebooks / "photos").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(notebooks / "photos" / f"case{i // 2}_{i % 2}.png")
    rule = "images: photos\npatient: {from_path: '(case[0-9]+)_'}\nscan: {size_px: 32, workers: 2}\n"
    (notebooks / "study.yaml").write_text(rule, encoding="utf-8")
    scan = "import pellucid\nprint(pellucid.scan_study('.', progress=False).read_json('source.json')['n_images'])"
    assert python(scan, notebooks) == "8"


def test_no_source_imports_a_package_by_its_folder_name() -> None:
    for folder in (*PACKAGES, "pellucid", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}: relative import"
                    names = [node.module or ""]
                top = {name.partition(".")[0] for name in names}
                assert not top & set(PACKAGES), f"{path}: import {names}, write pellucid.…"
