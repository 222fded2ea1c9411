"""The command line as a person meets it: help, sentences instead of tracebacks, and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import pellucid as front_door

ROOT = Path(__file__).parents[3]
VERBS = [
    "demo",
    "init",
    "scan",
    "pretrain",
    "embed",
    "search",
    "cluster",
    "probe",
    "audit",
    "report",
    "explore",
    "run",
    "near",
    "export",
    "forget",
    "status",
    "tidy",
]


def test_help_names_every_verb_and_loads_nothing_heavy(pellucid) -> None:  # type: ignore[no-untyped-def]
    done = pellucid("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout
    code = (
        "import sys\nfrom pellucid.cli.app import app\nfrom typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pandas', 'streamlit', 'cv2', 'sklearn'} & set(sys.modules)\nprint(sorted(heavy))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_every_verb_has_its_own_help(pellucid) -> None:  # type: ignore[no-untyped-def]
    for verb in VERBS:
        done = pellucid(verb, "--help")
        assert done.returncode == 0, verb
        assert "Usage: pellucid" in done.stdout or "Usage:" in done.stdout


def test_public_names() -> None:
    for name in front_door.__all__:
        assert callable(getattr(front_door, name))
    assert front_door.__version__.count(".") == 2


def test_in_a_process_of_its_own(pellucid_process, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert pellucid_process("--help").returncode == 0
    wrong = pellucid_process("scan", tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"{tmp_path}/study.yaml: no such file")


def test_mistakes_are_sentences_and_exit_2(pellucid, own_phantom: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, said in [
        (["scan", tmp_path / "nowhere"], "no such file; `pellucid init FOLDER` drafts a study.yaml"),
        (["scan", own_phantom, "splt.test=0.3"], "unknown key `splt`; did you mean `split`?"),
        (["cluster", own_phantom], "there is no scan of it yet: run `pellucid scan "),
        (["explore", own_phantom, "--address", "0.0.0.0"], "has no sign-in"),
        (["audit"], "name a study, or give --vectors"),
        (["audit", "--vectors", "v.npy"], "--vectors needs --table, --patient, --out as well"),
        (
            ["embed", tmp_path, "--backbone", "pixels"],
            "contains no study.yaml; a plain folder of images needs --out DIR",
        ),
        (
            ["embed", ROOT / "slurm", "--backbone", "pixels", "--out", tmp_path / "o"],
            "there is no image in this folder",
        ),
        (["init", tmp_path / "nowhere"], "is not a folder"),
        (["run", own_phantom, "pretrain.recipe=mae-tiny-gpu", "audit.permutation=9"], "did you mean `permutations`?"),
    ]:
        done = pellucid(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert said in done.stderr.replace("\n", " "), (arguments, done.stderr)
        assert "Traceback" not in done.stderr, arguments


def test_run_checks_every_section_before_the_first_image(pellucid, own_phantom: Path) -> None:  # type: ignore[no-untyped-def]
    done = pellucid("run", own_phantom, "cluster.n_neighbours=5", "pretrain.recipe=mae-tiny-gpu")
    assert "unknown key `cluster.n_neighbours`; did you mean `n_neighbors`?" in done.stderr
    assert "did you mean `mae-tiny-cpu`?" in done.stderr
    assert not (own_phantom / "analysis").exists()


def test_scan_status_and_repeat(pellucid, own_phantom: Path) -> None:  # type: ignore[no-untyped-def]
    first = pellucid("scan", own_phantom)
    assert first.returncode == 0, first.stderr
    assert "scan: done → " in first.stdout
    assert "patients can be used" in first.stdout
    assert "already done, nothing to do" in pellucid("scan", own_phantom).stdout
    listed = json.loads(pellucid("status", own_phantom, "--json").stdout)
    assert {(row["stage"], row["state"]) for row in listed["runs"]} == {("read", "done"), ("scan", "done")}
    assert set(listed["runs"][0]) == {"stage", "name", "path", "state"}
    assert "next: pellucid pretrain" in pellucid("status", own_phantom).stdout


def test_status_says_how_vectors_are_searched(pellucid, own_phantom: Path) -> None:  # type: ignore[no-untyped-def]
    assert pellucid("scan", own_phantom).returncode == 0
    assert pellucid("embed", own_phantom, "--backbone", "pixels").returncode == 0
    row = next(r for r in json.loads(pellucid("status", own_phantom, "--json").stdout)["runs"] if r["stage"] == "embed")
    assert row["index"].startswith("exact search of all ")
    assert f"search: {row['index']}" in pellucid("status", own_phantom).stdout
    (Path(row["path"]) / "index.json").write_text("{", encoding="utf-8")
    assert "index.json: is damaged" in pellucid("status", own_phantom).stdout


def test_embed_and_search_a_plain_folder(pellucid, phantom: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "vectors"
    done = pellucid("embed", phantom / "images", "--backbone", "pixels", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "no vector: " in done.stdout, "the phantom's unreadable files are named"
    first = pd.read_parquet(out / "images.parquet")["image_id"].iloc[0]
    hits = json.loads(pellucid("search", out, first, "-k", "3", "--json").stdout)
    assert len(hits) == 3
    assert first not in {hit["image_id"] for hit in hits}


def test_audit_of_anybodys_arrays(pellucid, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(80), 2)
    diagnosis, device = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    vectors = rng.normal(size=(160, 12)).astype(np.float32)
    vectors[:, 0] += 4 * device[patients]
    np.save(tmp_path / "v.npy", vectors)
    table = pd.DataFrame({"who": patients, "diagnosis": diagnosis[patients], "device": device[patients]})
    table.to_csv(tmp_path / "t.csv", index=False)
    command = [
        "audit", "--vectors", tmp_path / "v.npy", "--table", tmp_path / "t.csv", "--patient", "who",
        "--clinical", "diagnosis", "--acquisition", "device", "--permutations", "199", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = pellucid(*command)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert content["schema"] == "pellucid.audit/1"
    scores = {row["name"]: row for row in content["variables"]}
    assert scores["device"]["score"] > 0.95
    assert scores["device"]["p_value"] <= 0.01
    assert scores["diagnosis"]["ci_low"] < 0.5 < scores["diagnosis"]["ci_high"] or scores["diagnosis"]["p_value"] > 0.01
    assert content["pairs"][0]["sentence"] in done.stdout
    command[6] = "whom"
    wrong = pellucid(*command)
    assert wrong.returncode == 2
    assert "whom" in wrong.stderr


def test_options_of_the_other_form_are_refused(pellucid, own_phantom: Path) -> None:  # type: ignore[no-untyped-def]
    wrong = pellucid("audit", own_phantom, "--clinical", "diagnosis")
    assert wrong.returncode == 2
    assert "--clinical: only valid with --vectors; the columns of a study are declared in study.yaml" in wrong.stderr
    both = pellucid("audit", own_phantom, "--vectors", "v.npy")
    assert both.returncode == 2
    assert "not both" in both.stderr
    override = pellucid("audit", "--vectors", "v.npy", "audit.seed=1")
    assert "audit.seed=1: overrides apply to study.yaml and cannot be used with --vectors" in override.stderr
    assert pellucid("--version").stdout.strip().count(".") == 2
