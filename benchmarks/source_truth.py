"""Simulations of the source audit: is quality called random where it is random, and only there?

    python -m benchmarks.source_truth --reps 400            # some ten minutes on one core
    python -m benchmarks.source_truth --reps 40 --only "random"

Each world is a cohort with known quality, images per patient, gaps and calendar. Prints per world, with binomial error:
how often a single test at 5 % rejects (p ≤ 0.05), how often the audit reports a dependence (any q ≤ 0.05; this rate
must stay under 5 % where there is none), and the rates of a χ² test that counts images.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, norm

from pellucid.cohort.source_audit.calendar_drift import calendar_of, drift
from pellucid.cohort.source_audit.columns import Column, SourceColumns
from pellucid.cohort.source_audit.missingness import who_is_missing
from pellucid.cohort.source_audit.permutation_tests import compare, is_significant
from pellucid.cohort.source_audit.quality_bias import quality
from pellucid.cohort.source_audit.sample_size import images_per_patient
from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.cohort.study import Study, StudyConfig

CONFIG = {
    "images": "photos", "table": "clinical.csv", "image": "file", "patient": "id",
    "clinical": {"diagnosis": "categorical", "age": "continuous"},
    "outcome": {"recurrence": "binary"},
    "acquisition": {"device": "categorical", "operator": "categorical", "year": "ordinal"},
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A cohort with known answers. Effects shift an image's badness, in units of the noise of one image."""

    name: str
    n_patients: int = 200
    images: tuple[int, int] = (1, 8)
    likeness: float = 1.0  # standard deviation of badness between patients; images of one patient vary with 1
    poor: float = 0.2  # share of poor images
    outcome: float = 0.0  # of recurrence on badness
    device: float = 0.0  # of device B on badness
    operator: float = 0.0  # of operator Z, who changes from image to image
    year: float = 0.0  # of each year
    sizes: float = 0.0  # share of the recurrent who have twice as many images
    gap: float = 0.0  # added chance that age is missing on device B
    drifting: float = 0.0  # added chance of device B in the last year over the first

    def draw(self, seed: int) -> tuple[Study, pd.DataFrame]:
        """The study and its manifest, with grades and measures as a scan writes them."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        n = self.n_patients
        recurrence = rng.random(n) < 0.3
        sizes = rng.integers(self.images[0], self.images[1] + 1, n)
        sizes = np.where(recurrence & (rng.random(n) < self.sizes), 2 * sizes, sizes)
        year = rng.integers(2018, 2024, n)
        device = rng.random(n) < 0.4 + self.drifting * (year - 2020.5) / 5
        age = np.where(rng.random(n) < 0.15 + self.gap * device, np.nan, rng.normal(60, 12, n).round())
        of_patient = self.likeness * rng.standard_normal(n)
        of_patient += self.outcome * recurrence + self.device * device + self.year * (year - 2020.5)
        codes = np.repeat(np.arange(n), sizes)
        operator = rng.random(len(codes)) < 0.5
        badness = of_patient[codes] + rng.standard_normal(len(codes)) + self.operator * operator
        worst, middling = np.quantile(badness, [1 - self.poor, 1 - 2 * self.poor])
        names = np.array([f"P{i:05d}" for i in range(n)])
        frame = pd.DataFrame({"image_id": [f"img_{i:06d}.jpg" for i in range(len(codes))], "patient": names[codes]})
        frame["status"], frame["reason"], frame["findings"], frame["text_like"] = "ok", "", "", False
        frame["split"] = np.where(rng.random(n) < 0.2, "test", "train")[codes]
        frame["diagnosis"] = np.array(["benign", "malignant"])[rng.integers(0, 2, n)][codes]
        frame["recurrence"] = np.where(recurrence, "1", "0")[codes]
        frame["age"] = age[codes]
        frame["device"] = np.where(device, "B", "A")[codes]
        frame["operator"] = np.where(operator, "Z", "Y")
        frame["year"] = year[codes].astype(float)
        frame["image_grade"] = np.where(badness > worst, "poor", np.where(badness > middling, "borderline", "good"))
        frame["quality_sharpness"] = -badness
        other = rng.standard_normal(n)[codes] + rng.standard_normal(len(codes))
        frame["quality_exposure"] = other
        return Study(Path("study.yaml"), StudyConfig.model_validate(CONFIG)), frame


def with_every_column(manifest: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The manifest with all else that a scan may record: header fields, findings, duplicates, looks."""
    rng = np.random.default_rng([seed, 9])
    n = len(manifest)
    device = manifest["device"] == "B"
    frame = manifest.assign(
        header_manufacturer=np.where(device, "Acme", "Borealis"),
        header_software=rng.choice(["2.1", "2.2", "3.0"], n),
        header_date=[f"{y:.0f}-{m:02d}-15" for y, m in zip(manifest["year"], rng.integers(1, 13, n), strict=True)],
        header_patient_name="DOE^JANE",
        phenotype_brightness=50 + 5 * device + rng.standard_normal(n),
        text_like=device & (rng.random(n) < 0.6),
        findings=rng.choice(["", "", "", "gps", "burned_in exif_comment"], n),
        image_grade_sharpness=manifest["image_grade"],
        image_grade_exposure=rng.choice(["good", "good", "borderline"], n),
        duplicate_of="",
        duplicate_kind="",
        duplicate_group="",
    )
    patients = frame["patient"].to_numpy()
    other = int(np.flatnonzero((patients != patients[0]) & (frame["split"] != frame["split"].iloc[0]))[0])
    apart = ~np.isin(patients, [patients[0], patients[other]]) & frame["patient"].duplicated().to_numpy()
    same = np.flatnonzero(patients == patients[np.flatnonzero(apart)[0]])[:2].tolist()
    for group, (kind, first, second) in enumerate([("exact", 0, other), ("near", *same)]):
        frame.loc[[first, second], "duplicate_group"] = f"g{group}"
        frame.loc[second, ["duplicate_of", "duplicate_kind"]] = [frame.loc[first, "image_id"], kind]
    return frame


WORLDS = (
    World("random quality"),
    World("random quality, patients very alike", likeness=3.0),
    World("random quality, 60 patients", n_patients=60),
    World("random quality, 1 to 40 images", images=(1, 40)),
    World("random quality, the recurrent have more images", sizes=0.8),
    World("random quality, rarely poor", poor=0.04),
    World("quality depends on the outcome", outcome=0.8),
    World("quality depends on the outcome, strongly", outcome=1.5),
    World("quality depends on the device", device=1.2),
    World("quality depends on the operator of each image", operator=0.5),
    World("quality worsens over the years", year=0.3),
    World("age is missing on device B", gap=0.4),
    World("devices change over the years", drifting=0.6),
)


@dataclass(frozen=True)
class Few:
    """A yes-or-no variable whose two classes have unlike numbers of images; a number and a flag that vary within
    patients."""

    patients: tuple[int, int]  # with and without
    images: tuple[int, int]  # of each of these
    likeness: float  # intraclass correlation
    effect: float = 0.0  # on the number, in its standard deviations
    poor: float = 0.2

    @property
    def name(self) -> str:
        (a, b), (i, j) = self.patients, self.images
        return f"unlike numbers of images: {a}/{b} patients with {i}/{j}, ICC {self.likeness:g}, effect {self.effect:g}"

    def p_values(self, seed: int) -> dict[str, float]:
        """p of the variable against the number, and against whether this is among the highest (poor)."""
        rng = np.random.default_rng([seed, *self.patients, *self.images])
        having = np.repeat([True, False], self.patients)
        codes = np.repeat(np.arange(len(having)), np.repeat(self.images, self.patients))
        number = np.sqrt(self.likeness) * rng.standard_normal(len(having))[codes] + self.effect * having[codes]
        number += np.sqrt(1 - self.likeness) * rng.standard_normal(len(codes))
        known, patients = np.ones(len(codes), dtype=bool), Patients(codes, len(having))
        x = Column.flag("x", "outcome", having[codes], known)
        flag = Column.flag("poor", "quality", number > norm.isf(self.poor), known)
        sides = {"number": Column.number("number", "quality", number), "yes or no": flag}
        return {name: float(compare(x, y, patients)["p_value"] or 1.0) for name, y in sides.items()}


FEW = (
    Few((12, 48), (1, 12), 0.0),
    Few((15, 150), (1, 4), 0.2),
    Few((20, 80), (1, 6), 0.3),
    Few((20, 80), (1, 3), 0.3),
    Few((40, 60), (1, 3), 0.2),
    Few((12, 48), (12, 1), 0.0),
    Few((20, 80), (1, 6), 0.3, effect=0.9),
    Few((12, 48), (12, 1), 0.0, effect=0.7),
)


def answers(world: World, seed: int) -> dict[str, Any]:
    """What the audit and a test of images say of one repetition: name → rejected."""
    study, manifest = world.draw(seed)
    cohort = SourceColumns.from_table(manifest, study.variables, seed)
    when = calendar_of(manifest, study.variables)
    said = quality(cohort, when)
    found: dict[str, Any] = {}
    for test in said["tests"]:
        if test["quality"] == "poor quality" and test["p_value"] is not None:
            found[f"poor × {test['variable']}, p"] = test["p_value"] <= 0.05
    for name, verdict in said["verdict"].items():
        found[f"quality × {name}, called"] = verdict == "depends"
    found["quality × anything, called"] = "depends" in said["verdict"].values()
    for name in ("recurrence", "device"):
        table = pd.crosstab(manifest[name], manifest["image_grade"] == "poor").to_numpy()
        found[f"poor × {name}, χ² of images"] = table.shape == (2, 2) and chi2_contingency(table)[1] <= 0.05
    sizes = images_per_patient(cohort)
    found["number of images × recurrence, called"] = any(
        t["variable"] == "recurrence" and is_significant(t) for t in sizes["tests"]
    )
    found["number of images × anything, called"] = any(map(is_significant, sizes["tests"]))
    gaps = who_is_missing(cohort, when)["tests"]
    found["missing × device, called"] = any(t["against"] == "device" and is_significant(t) for t in gaps)
    found["missing × anything, called"] = any(map(is_significant, gaps))
    course = drift(cohort, when)["tests"]
    found["calendar × device, called"] = any(t["variable"] == "device" and is_significant(t) for t in course)
    found["calendar × anything, called"] = any(map(is_significant, course))
    return found


def rates(world: World, repetitions: Sequence[int]) -> dict[str, tuple[float, int]]:
    """Share of repetitions that rejected, and how many could be tested."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for seed in repetitions:
        for name, rejected in answers(world, seed).items():
            seen[name].append(bool(rejected))
    return {name: (float(np.mean(values)), len(values)) for name, values in seen.items()}


def rates_of_few(world: Few, repetitions: Sequence[int]) -> dict[str, float]:
    """Share of repetitions with p ≤ 0.05."""
    found = pd.DataFrame([world.p_values(seed) for seed in repetitions]) <= 0.05
    return {str(name): float(share) for name, share in found.mean().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=400)
    parser.add_argument("--only", default="", help="worlds whose name contains this")
    arguments = parser.parse_args()
    for world in (replace(w) for w in WORLDS if arguments.only in w.name):
        start = time.perf_counter()
        found = rates(world, range(arguments.reps))
        print(f"\n{world.name}  ({(time.perf_counter() - start) / arguments.reps:.2f} s a repetition)")
        for name, (share, n) in found.items():
            print(f"  {name:45s} {share:.3f} ±{np.sqrt(share * (1 - share) / n):.3f}", flush=True)
    for few in (w for w in FEW if arguments.only in w.name):
        print(f"\n{few.name}")
        for name, share in rates_of_few(few, range(arguments.reps)).items():
            print(f"  x × {name}, p {share:.3f} ±{np.sqrt(share * (1 - share) / arguments.reps):.3f}", flush=True)


if __name__ == "__main__":
    main()
