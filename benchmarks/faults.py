"""Kill and damage: does a repeated command finish the work, and is a flipped bit named by the next command?

    python -m benchmarks.faults [--kills 30] [--seed 0]

A small phantom study goes through scan, embed, cluster, audit and report. **Kills**: each command in turn is ended by
`kill -9` (with its helper processes) at a random moment of its running time, in a copy of the study without the results
of that command; the command is repeated, and every file that its runs list is compared with that of the undisturbed
study (`run.json`, which holds times, without them). **Flips**: in every file that a run lists, one random bit is
flipped; the next command that uses the run must end with exit code 2 and name the file. It is repeated on finished
results, where a command that does not look would say "already done".

Prints a table; the exit code is 1 if a kill or flip did not end as it should. Commands start from a server process
that has imported the packages, so that kills hit the work and not the imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = {
    "scan": ("scan",),
    "embed": ("embed", "--backbone", "pixels"),
    "cluster": ("cluster", "--backbone", "pixels"),
    "audit": ("audit", "--backbone", "pixels"),
    "report": ("report",),
}
WRITES = {
    "scan": ("read", "scan"),
    "embed": ("embed",),
    "cluster": ("cluster",),
    "audit": ("audit",),
    "report": ("report",),
}
NEXT = {"read": "embed", "scan": "embed", "embed": "audit", "cluster": "report", "audit": "report", "report": "report"}
SECTIONS = "scan: {shard_images: 4}\nembed: {batch_size: 2}\naudit: {permutations: 99, bootstrap: 50}\n"
IMPORTED = ["pellucid.pipeline", "pellucid.cli.app", "pellucid.api.vector_functions", "pellucid.api.audit_functions"]
TIMES = {"started", "ended", "resumed", "command", "hardware", "build_s", "seconds"}
TIMEOUT_S = 300


@dataclass
class Outcome:
    """One process: exit code (negative: ended by this signal), what it printed, and how long it ran."""

    code: int
    text: str
    seconds: float


@dataclass
class Tally:
    """What happened to one command or stage."""

    tried: int = 0
    good: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str) -> None:
        self.tried += 1
        self.good += not fault
        if fault:
            self.faults.append(fault)


def command_process(arguments: tuple[str, ...], log: str) -> None:
    """Be `pellucid …`, with its output in a file, as the first process of a new group."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["pellucid", *arguments]
    import pellucid

    pellucid.main()


def run(name: str, study: Path, kill_after_s: float | None = None) -> Outcome:
    """Run one of `COMMANDS` on a study; with `kill_after_s`, end it and its helpers by SIGKILL then."""
    context = multiprocessing.get_context("forkserver")
    verb, *options = COMMANDS.get(name, (name,))
    log = study.parent / "output.txt"
    process = context.Process(target=command_process, args=((verb, str(study), *options), str(log)))
    start = time.monotonic()
    process.start()
    process.join(TIMEOUT_S if kill_after_s is None else kill_after_s)
    if process.is_alive():
        assert process.pid is not None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group yet
            process.kill()
        process.join()
    code = process.exitcode
    return Outcome(-999 if code is None else code, log.read_text("utf-8", "replace") if log.exists() else "",
                   time.monotonic() - start)  # fmt: skip


def undisturbed(folder: Path, patients: int) -> dict[str, float]:
    """Write the phantom study and run every command; seconds of each.

    Raises:
        SystemExit: a command failed.
    """
    from pellucid.cohort.phantom.population import PhantomConfig, write_phantom

    one_each = PhantomConfig(patients=patients, images_per_patient=(1, 1), width_px=160, height_px=120, unreadable=0)
    write_phantom(folder, one_each, sections=SECTIONS)
    seconds = {}
    for name in COMMANDS:
        done = run(name, folder)
        print(f"{name}: {done.seconds:.1f} s", file=sys.stderr)
        if done.code != 0:
            raise SystemExit(f"{name} failed:\n{done.text}")
        seconds[name] = done.seconds
    return seconds


def copy_before(name: str, whole: Path, target: Path) -> None:
    """A copy of the study without the runs of a command and of the commands after it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target)
    for later in list(COMMANDS)[list(COMMANDS).index(name) :]:
        for stage in WRITES[later]:
            shutil.rmtree(target / "analysis" / stage, ignore_errors=True)


def listed(run_folder: Path) -> list[str]:
    """The files that a run's SHA256SUMS lists."""
    lines = (run_folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return [line.partition("  ")[2] for line in lines]


def finished(study: Path, stage: str) -> dict[str, Path]:
    """Name → folder of the finished runs of a stage."""
    return {path.parent.name: path.parent for path in (study / "analysis" / stage).glob("[!.]*/SHA256SUMS")}


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: without_times(value)
            for key, value in content.items()
            if key not in TIMES and not (key == "sha256" and "stage" in content)  # a parent's list holds its run.json
        }
    return [without_times(value) for value in content] if isinstance(content, list) else content


def difference(whole: Path, other: Path, name: str) -> str:
    """The first difference between the runs of a command in two studies; empty if there is none."""
    from pellucid.cohort.runs import verify

    for stage in WRITES[name]:
        before, after = finished(whole, stage), finished(other, stage)
        if before.keys() != after.keys():
            return f"{stage}: runs {sorted(after)} instead of {sorted(before)}"
        for run_name, folder in after.items():
            if wrong := verify(folder):
                return wrong[0]
            if listed(folder) != listed(before[run_name]):
                return f"{stage}/{run_name}: other files"
            for file in listed(folder):
                if not same_file(before[run_name] / file, folder / file):
                    return f"{stage}/{run_name}/{file}: differs"
        left = [path.name for path in (other / "analysis" / stage).glob(".*") if path.suffix not in {".lock", ".json"}]
        left += [path.name for path in (other / "analysis" / stage).rglob(".*.tmp")]
        if left:
            return f"{stage}: {left[0]} is left over"
    return ""


def same_file(left: Path, right: Path) -> bool:
    if left.read_bytes() == right.read_bytes():
        return True
    if left.suffix != ".json":
        return False
    both = [without_times(json.loads(path.read_text(encoding="utf-8"))) for path in (left, right)]
    return bool(both[0] == both[1])


def killed_and_repeated(
    name: str, whole: Path, target: Path, seconds: float, draw: random.Random
) -> tuple[str, float, bool]:
    """One kill: what was wrong in the end, the share of the running time at which it came, whether a run was begun."""
    while True:
        copy_before(name, whole, target)
        share = draw.random()
        if run(name, target, kill_after_s=share * seconds).code == -signal.SIGKILL:
            break  # otherwise it had ended before
    stages = [target / "analysis" / stage for stage in WRITES[name]]
    begun = any(stage.is_dir() and any(stage.glob("*.partial")) for stage in stages)
    again = run(name, target)
    if again.code != 0:
        return f"{name} killed at {share:.0%}: exit {again.code}: {again.text[-300:]}", share, begun
    fault = difference(whole, target, name)
    return (f"{name} killed at {share:.0%}: {fault}" if fault else ""), share, begun


def flipped(path: Path, study: Path, command: str, draw: random.Random) -> str:
    """Flip one bit of a file, run a command, flip it back; what was wrong, empty if the file was named."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(content))
    changed = content.copy()
    changed[place // 8] ^= 1 << place % 8
    path.write_bytes(changed)
    done = run(command, study)
    path.write_bytes(content)
    if done.code == 2 and str(path) in done.text:
        return ""
    return f"bit {place} of {path.relative_to(study)}: {command} ended with {done.code}: {done.text[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--patients", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    draw = random.Random(chosen.seed)
    start = time.monotonic()
    kills: dict[str, Tally] = {name: Tally() for name in COMMANDS}
    moments: dict[str, list[float]] = {name: [] for name in COMMANDS}
    begun: Counter[str] = Counter()
    flips: dict[str, Tally] = {stage: Tally() for stage in NEXT}
    with tempfile.TemporaryDirectory() as place:
        # Of one name, which is the title of the report.
        whole, target = (Path(place).resolve() / part / "study" for part in ("whole", "target"))
        for study in (whole, target):
            study.parent.mkdir()
        run("status", whole)  # there is no study yet: only starts the server
        seconds = undisturbed(whole, chosen.patients)
        for number in range(chosen.kills):
            name = list(COMMANDS)[number % len(COMMANDS)]
            fault, share, running = killed_and_repeated(name, whole, target, seconds[name], draw)
            kills[name].add(fault)
            moments[name].append(share)
            begun[name] += running
        for stage, command in NEXT.items():
            for folder in finished(whole, stage).values():
                for file in listed(folder):
                    flips[stage].add(flipped(folder / file, whole, command, draw))
    print("| command | seconds | kills | in the middle of a run | at a share of its time | whole and equal |")
    print("|---|---|---|---|---|---|")
    for name, tally in kills.items():
        at = f"{min(moments[name], default=0):.2f}–{max(moments[name], default=0):.2f}"
        print(f"| {name} | {seconds[name]:.1f} | {tally.tried} | {begun[name]} | {at} | {tally.good} |")
    print("\n| stage | files with a flipped bit | next command | named |\n|---|---|---|---|")
    for stage, tally in flips.items():
        print(f"| {stage} | {tally.tried} | {NEXT[stage]} | {tally.good} |")
    faults = [fault for tally in (*kills.values(), *flips.values()) for fault in tally.faults]
    print(f"\n{len(faults)} faults, {time.monotonic() - start:.0f} s")
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
