"""Has a short pretraining taught the backbone anything? The same network, trained and with random weights, probed
alike.

    python -m benchmarks.trained_or_random --out FOLDER [pretrain.recipe=lejepa-tiny-cpu …]      # phantom
    python -m benchmarks.trained_or_random --out FOLDER --study configs/study/busbra [pretrain.recipe=…]

Runs scan, pretrain, embed, probe and report as the commands do. Prints for each variable the score of a linear and of a
kNN probe with 95 % intervals over patients, and whether the two intervals are disjoint. The report is in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
from pellucid.embed.extract.stage import embed
from pellucid.explore.report.stage import report
from pellucid.pretrain.stage import pretrain
from pellucid.probes.stage import probe_study


def cell(scored: dict[str, Any] | None) -> str:
    """`0.81 (0.76–0.85)`."""
    if not scored or scored["score"] is None:
        return "–"
    return f"{scored['score']:.2f} ({scored['ci_low']:.2f}–{scored['ci_high']:.2f})"


def apart(random: dict[str, Any] | None, trained: dict[str, Any] | None) -> str:
    """Whether the trained network's interval lies above the random one's, below it, or neither."""
    if not random or not trained or random["score"] is None or trained["score"] is None:
        return "–"
    if trained["ci_low"] > random["ci_high"]:
        return "above"
    return "below" if trained["ci_high"] < random["ci_low"] else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where phantom and runs go; delete it to measure anew")
    parser.add_argument("--study", type=Path, help="a study instead of the phantom")
    parser.add_argument("--patients", type=int, default=400, help="of the phantom")
    parser.add_argument("overrides", nargs="*", help="key=value")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    folder = arguments.study or out / "phantom"
    if arguments.study is None and not (folder / "study.yaml").is_file():
        write_phantom(folder, PhantomConfig(patients=arguments.patients))
    study = load_study(folder, [f"analysis={out / 'analysis'}", *arguments.overrides])
    scanned = scan(study)
    load = os.getloadavg()[0]
    began = time.monotonic()
    trained = pretrain(study, scanned)
    minutes = (time.monotonic() - began) / 60
    spec = json.loads((trained.path / "preprocess.json").read_text(encoding="utf-8"))
    names = [f"timm-random:{spec['timm_name']}@{spec['img_size']}", f"run:{trained.path}"]
    vectors = [embed(study, scanned, name) for name in names]
    probes = probe_study(study, scanned, vectors)
    page = report(study, scanned, vectors, None, probes, None, trained)
    found = probes.read_json("probes.json")["backbones"]
    random, own = (
        {row["name"]: row for row in next(rows for name, rows in found.items() if name.startswith(kind))["variables"]}
        for kind in ("timm-random", "run")
    )
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before; {spec['recipe']}, "
        f"{spec['timm_name']} at {spec['img_size']} px, {spec['images_seen']:,} images seen, "
        f"{spec['n_images_trained']:,} images of {spec['n_patients_trained']:,} patients trained on, {minutes:.1f} "
        "minutes\n"
    )
    print("| variable | linear, random | linear, trained | apart | kNN, random | kNN, trained | apart |")
    print("|---|---|---|---|---|---|---|")
    for name, row in own.items():
        base = random[name]
        linear = f"{cell(base)} | {cell(row)} | {apart(base, row)}"
        neighbours = f"{cell(base['knn'])} | {cell(row['knn'])} | {apart(base['knn'], row['knn'])}"
        print(f"| {name} ({row['role']}, {row['metric']}) | {linear} | {neighbours} |")
    print(f"\nreport: {page.path / 'report.html'}")


if __name__ == "__main__":
    main()
