"""A whole study, timed: the phantom demo and three public data sets, from originals to report.

    python -m benchmarks.first_study --data FOLDER --out FOLDER [--only demo busbra …]

Prints, as Markdown, the minutes of each study and how well each variable is predicted from the vectors of each
backbone. `--data` is the folder that holds busbra/, pad_ufes_subset/ and ct_tcga_dicom/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pellucid.embed.backbones.compute_choice import Compute, Hardware

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("busbra", "pad_ufes", "ct_tcga")


def run(command: list[str], environment: dict[str, str]) -> float:
    """Minutes that a command took; its failure ends the benchmark."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "pellucid", *command], check=True, env=environment)
    return (time.monotonic() - start) / 60


def newest(analysis: Path, stage: str, name: str) -> dict[str, Any]:
    paths = sorted((analysis / stage).glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    return dict(json.loads(paths[-1].read_text(encoding="utf-8"))) if paths else {}


def table(analysis: Path) -> list[str]:
    """One row a variable: score with its interval, for each backbone."""
    probes = newest(analysis, "probe", "probes.json")["backbones"]
    names = list(probes)
    lines = ["| variable | patients | metric | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for i, first in enumerate(probes[names[0]]["variables"]):
        cells = []
        for name in names:
            row = probes[name]["variables"][i]
            if row["score"] is None:
                cells.append(row["note"])
            else:
                cells.append(f"{row['score']:.2f} ({row['ci_low']:.2f}–{row['ci_high']:.2f})")
        head = f"| {first['name']} ({first['role']}) | {first['n_patients']} | {first['metric']} | "
        lines.append(head + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds busbra/, pad_ufes_subset/ and ct_tcga_dicom/")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go; delete it to measure anew")
    parser.add_argument("--only", nargs="*", default=["demo", *STUDIES])
    parser.add_argument("overrides", nargs="*", help="key=value for every run, for example pretrain.images_seen=5000")
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if arguments.data:
        environment["PELLUCID_DATA"] = str(arguments.data.resolve())
    print(
        f"{Hardware.from_device(torch.device('cpu')).name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}\n",
        flush=True,
    )
    for name in arguments.only:
        analysis = arguments.out.resolve() / name / "analysis"
        if name == "demo":
            minutes = run(["demo", str(analysis.parent)], environment)
        else:
            study = ROOT / "configs" / "study" / name
            minutes = run(["run", str(study), f"analysis={analysis}", *arguments.overrides], environment)
        source = newest(analysis, "scan", "source.json")
        print(f"\n### {name}: {source['n_images']} images of {source['n_patients']} patients, {minutes:.1f} minutes\n")
        print("\n".join(table(analysis)) + "\n")
        trained = newest(analysis, "pretrain", "compute.json")
        if trained:
            print(f"Trained in {Compute.from_record(trained).sentence()}\n")
        for accused in newest(analysis, "audit", "audit.json").get("accused", []):
            print(f"- {accused['sentence']}")
        print(flush=True)


if __name__ == "__main__":
    main()
