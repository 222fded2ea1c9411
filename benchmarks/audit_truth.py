"""Simulations with known answers: the audit's own code on many repetitions of each world.

    python -m benchmarks.audit_truth --reps 200            # about an hour on 2 cores
    python -m benchmarks.audit_truth --reps 20 --only fingerprint
    python -m benchmarks.audit_truth --reps 2000 --levels  # only false positives, in worlds with a null question

Prints one line per world and question, each share with its binomial error: how often the 5 % test rejects (false
positive rate in a null world, power elsewhere), how often the 95 % interval covers the expected score (the mean over
repetitions), and how often the verdict is correct. `--further` adds, for each pair: how often a drop is reported
although the disease looks the same under every device, how often the intervals of the drop and of the Robustness Index
cover the expected value, and the index compared with its chance level in worlds without any effect.
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # the repetitions share the cores; threads within one would only wait
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.probes.audit import audit
from pellucid.probes.inputs.validation import AuditInput
from pellucid.probes.questions.variable_rows import variable_row
from pellucid.probes.questions.within_strata import Pair, pair_row
from pellucid.probes.settings import AuditSettings


@dataclass(frozen=True)
class World:
    """A cohort with known answers. Shifts are in units of the noise of one image along one direction."""

    name: str
    truth: str = ""  # the verdict that is true, "" where only the rates are of interest
    null: tuple[str, ...] = ()  # of "clinical", "acquisition", "clinical_beyond", "acquisition_beyond", "association"
    n_patients: int = 200
    images: tuple[int, int] = (1, 8)
    dim: int = 64
    disease: float = 0.0  # length of the shift of the diseased
    device: float = 0.0  # length of the shift between devices
    confounding: float = 0.0  # share of patients whose disease is decided by the device
    devices: tuple[float, ...] = (0.5, 0.5)  # share of patients per device
    fingerprint: float = 1.0  # standard deviation between patients; images of one patient vary with 1
    within: bool = False  # disease varies within patients, device does not
    rank: bool = False  # disease is a continuous grade
    time: bool = False  # the diseased die four times as fast; half of all patients are lost to follow-up before

    def draw(self, seed: int) -> tuple[NDArray[np.float32], pd.DataFrame]:
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        sizes = rng.integers(self.images[0], self.images[1] + 1, self.n_patients)
        codes = np.repeat(np.arange(self.n_patients), sizes)
        device = rng.choice(len(self.devices), self.n_patients, p=self.devices)
        decided = rng.random(self.n_patients) < self.confounding
        free = rng.integers(0, 2, self.n_patients)
        disease = np.where(decided, device % 2, free).astype(np.float64)
        if self.rank:
            disease = disease + rng.standard_normal(self.n_patients)
        row_disease = rng.integers(0, 2, len(codes)).astype(np.float64) if self.within else disease[codes]
        directions = np.linalg.qr(rng.standard_normal((self.dim, 8)))[0].T
        values = self.fingerprint * rng.standard_normal((self.n_patients, self.dim))[codes]
        values += rng.standard_normal((len(codes), self.dim))
        values += self.disease * np.outer(row_disease, directions[0])
        # Device d shifts along its own direction; it overlaps the disease's, as colour casts and redness do.
        for level in range(1, len(self.devices)):
            along = (0.5 * directions[0] + directions[level]) / np.sqrt(1.25)
            values += self.device * np.outer(device[codes] == level, along)
        table = pd.DataFrame({"patient": codes, "device": np.array(list("ABCDE"))[device[codes]]})
        if self.time:
            event, lost = rng.exponential(1.0, self.n_patients) / 4.0**disease, rng.exponential(0.7, self.n_patients)
            table["months"], table["died"] = np.minimum(event, lost)[codes], (event <= lost).astype(int)[codes]
        table["disease"] = row_disease if self.rank else np.where(row_disease > 0, "sick", "well")
        return values.astype(np.float32), table


BASE = World("no effect", null=("clinical", "acquisition", "clinical_beyond", "acquisition_beyond", "association"))
WORLDS = (
    replace(BASE, truth="not_associated_not_encoded"),
    replace(BASE, name="no effect, 30 patients, dim 16", n_patients=30, dim=16, images=(1, 3)),
    replace(BASE, name="no effect, 100 patients, dim 1024", n_patients=100, dim=1024, images=(1, 3)),
    replace(BASE, name="no effect, 1000 patients, 1 image", n_patients=1000, images=(1, 1)),
    replace(BASE, name="no effect, 1-50 images", n_patients=100, images=(1, 50), dim=32),
    replace(BASE, name="fingerprint", fingerprint=5.0),
    replace(BASE, name="varies within patients", within=True, images=(1, 6)),
    replace(BASE, name="no effect, continuous", rank=True),
    replace(BASE, name="three devices, one rare", devices=(0.5, 0.44, 0.06)),
    World("device only", "clinical_not_encoded", ("clinical", "clinical_beyond", "association"), device=4.0),
    World(
        "disease only",
        "not_associated_not_encoded",
        ("acquisition", "acquisition_beyond", "association"),
        disease=4.0,
    ),
    World("both, independent", "encoded_not_confounded", ("association",), disease=4.0, device=4.0),
    World("explained by device", "explained_by_acquisition", ("clinical_beyond",), device=4.0, confounding=0.7),
    World("explained, fingerprint 3", "", ("clinical_beyond",), device=4.0, confounding=0.7, fingerprint=3.0),
    World("explained, continuous", "", ("clinical_beyond",), device=4.0, confounding=0.9, rank=True),
    World("opposite: device only through disease", "acquisition_read_through_clinical", ("acquisition_beyond",),
          disease=4.0, confounding=0.7),
    World("partly explained", "confounded_survives", (), disease=3.0, device=4.0, confounding=0.7),
    World("complete confounding", "cannot_be_separated", (), disease=3.0, device=4.0, confounding=1.0),
    replace(BASE, name="no effect, time to event", time=True),
    World(("disease only, time to "
          "event"), "", ("acquisition", "acquisition_beyond", "association"), disease=4.0, time=True),
    World("explained, time to event", "", ("clinical_beyond",), device=4.0, confounding=0.9, time=True),
    World("weak disease", "", ("acquisition", "acquisition_beyond", "association"), disease=1.5),
    World("strong disease, 60 patients", "", ("acquisition",), disease=5.0, n_patients=60, dim=16, images=(1, 3)),
)  # fmt: skip


def _names(world: World) -> tuple[dict[str, str], dict[str, str]]:
    """The clinical variable and the acquisition factor with their kinds."""
    disease = {"months/died": "time_to_event"} if world.time else {"disease": "continuous" if world.rank else "binary"}
    return disease, {"device": "categorical"}


def one(world: World, permutations: int, further: bool, seed: int) -> dict[str, Any]:
    """All answers of one repetition, flat."""
    vectors, table = world.draw(seed)
    clinical, acquisition = _names(world)
    found = audit(
        vectors, table, patient="patient", clinical=clinical, acquisition=acquisition,
        permutations=permutations, bootstrap=200, seed=seed, further=further,
    )  # fmt: skip
    pair = found["pairs"][0]
    rows = {
        "clinical": found["variables"][0],
        "acquisition": found["variables"][1],
        "clinical_beyond": pair["clinical_beyond_acquisition"],
        "acquisition_beyond": pair["acquisition_beyond_clinical"],
        "association": pair["association"],
    }
    return {**rows, "verdict": pair["verdict"], "transfer": pair["transfer"], "neighbours": pair["neighbours"]}


def levels(world: World, permutations: int, seed: int) -> dict[str, float]:
    """The p-values of one repetition by the audit's own questions, without other probes and without intervals."""
    vectors, table = world.draw(seed)
    cohort = AuditInput.from_table(vectors, table, "patient", *_names(world), True)
    settings = AuditSettings(permutations, seed=seed, further=False, p_values_only=True)
    y, z = cohort.variables
    pair = pair_row(vectors, Pair.from_variables(y, z, cohort.patients), settings)
    found = {
        "association": pair["association"],
        "clinical_beyond": pair["clinical_beyond_acquisition"],
        "acquisition_beyond": pair["acquisition_beyond_clinical"],
    }
    for name, variable in (("clinical", y), ("acquisition", z)):
        if name in world.null:
            found[name] = variable_row(vectors, variable, cohort.patients, settings)[0]
    return {name: found[name]["p_value"] for name in world.null}


def report_levels(world: World, results: list[dict[str, float]], seconds: float) -> None:
    """Print one line per null question."""
    print(f"\n{world.name}  ({seconds / len(results):.2f} s per repetition)")
    for question in world.null:
        p = np.array([r[question] for r in results if r[question] is not None])
        rejected = np.mean(p <= 0.05)
        error = np.sqrt(rejected * (1 - rejected) / len(p))
        print(f"  {question:20s} false positives {rejected:.4f} ±{error:.4f}", flush=True)


def report(world: World, results: list[dict[str, Any]], seconds: float) -> None:
    """Print the lines of one world."""
    print(f"\n{world.name}  ({seconds / len(results):.2f} s per audit)")
    for question in ("clinical", "acquisition", "clinical_beyond", "acquisition_beyond", "association"):
        rows = [r[question] for r in results if r[question]["p_value"] is not None]
        if not rows:
            print(f"  {question:20s} no number")
            continue
        rejected = np.mean([r["p_value"] <= 0.05 for r in rows])
        kind = "false positives" if question in world.null else "power"
        line = f"  {question:20s} {kind:15s} {rejected:.3f} ±{np.sqrt(rejected * (1 - rejected) / len(rows)):.3f}"
        if "score" in rows[0]:
            scores = np.array([r["score"] for r in rows])
            covered = np.mean([r["ci_low"] <= scores.mean() <= r["ci_high"] for r in rows])
            detectable = np.mean([r["detectable"] for r in rows])
            line += (
                f"  score {scores.mean():.3f} (sd {scores.std():.3f})  coverage {covered:.3f}  detectable "
                f"{detectable:.3f}"
            )
        print(line)
    for question, value in (("transfer", "drop"), ("neighbours", "robustness_index")):
        rows = [r[question] for r in results if r[question] and r[question]["ci_low"] is not None]
        if not rows:
            continue
        values = np.array([r[value] for r in rows])
        covered = np.mean([r["ci_low"] <= values.mean() <= r["ci_high"] for r in rows])
        line = f"  {question:20s} {value} {values.mean():.3f} (sd {values.std():.3f})  coverage {covered:.3f}"
        if question == "transfer":
            line += f"  drop claimed {np.mean([r['ci_low'] > 0 for r in rows]):.3f}"
        else:
            off = np.mean([not r["ci_low"] <= r["chance"] <= r["ci_high"] for r in rows])
            line += f"  chance {np.mean([r['chance'] for r in rows]):.3f}, outside the interval {off:.3f}"
        print(line)
    verdicts = Counter(str(r["verdict"]) for r in results)
    right = f"true one {verdicts[world.truth] / len(results):.3f}: " if world.truth else ""
    print(f"  verdicts             {right}{dict(verdicts.most_common(4))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=200)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--only", default="", help="worlds whose name contains this; =NAME for one alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--further", action="store_true", help="transfer and neighbours too")
    parser.add_argument("--levels", action="store_true", help="false positives alone, several times as fast")
    arguments = parser.parse_args()
    for world in WORLDS:
        whole = arguments.only.startswith("=")
        wanted = arguments.only == f"={world.name}" if whole else arguments.only in world.name
        if not wanted or (arguments.levels and not world.null):
            continue
        start = time.perf_counter()
        if arguments.levels:
            question = partial(levels, world, arguments.permutations)
        else:
            question = partial(one, world, arguments.permutations, arguments.further)
        with ProcessPoolExecutor(arguments.workers) as pool:
            results = list(pool.map(question, range(arguments.reps), chunksize=4))
        (report_levels if arguments.levels else report)(world, results, time.perf_counter() - start)


if __name__ == "__main__":
    main()
