"""The finished vectors of a study: for each backbone the newest run made from a given scan."""

from __future__ import annotations

from pathlib import Path

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, newest_runs, require_intact
from pellucid.embed.store.vectors import Vectors, load_vectors, read_spec

WITHOUT_TEXT = " without text"  # appended to the backbone's name if burned-in text was painted over
TAKEN_OUT = " less "  # between the name of a backbone and that of the factor removed from its vectors


def newest_vectors(analysis: Path, scan: RunFolder) -> dict[str, RunFolder]:
    """{backbone: its newest finished run made from this scan}, oldest first.

    Vectors of images with masked text are left out, and so are vectors from which a factor was removed: they would be
    evaluated on the patients from which the removal was learnt.
    """
    return {
        name: run
        for name, run in _newest(analysis, scan).items()
        if not name.endswith(WITHOUT_TEXT) and not read_spec(run.path).get("taken_out")
    }


def masked_vectors(analysis: Path, scan: RunFolder, before: Vectors) -> RunFolder | None:
    """The newest vectors with burned-in text painted over (`embed.text=mask`), otherwise made like those given."""
    run = _newest(analysis, scan).get(before.name + WITHOUT_TEXT)
    if run is None:
        return None
    must_match = ("fingerprint", "pooling", "layers", "average", "size_px", "read_from")
    spec = load_vectors(run.path).spec
    return run if all(spec.get(key) == before.spec.get(key) for key in must_match) else None


def _newest(analysis: Path, scan: RunFolder) -> dict[str, RunFolder]:
    found: dict[str, RunFolder] = {}
    for run in newest_runs(analysis, "embed", scan):
        name = str(read_spec(run.path)["backbone"])
        found.pop(name, None)
        found[name] = run
    return found


def choose_vectors(analysis: Path, scan: RunFolder, backbone: str | None = None) -> RunFolder:
    """The vectors of one backbone; without a name, those of the study's pretrained backbone (`run:`) if there are any.

    Raises:
        UserError: no images are embedded yet, or not with this backbone.
        DamagedRun: a file of the vectors is not what was written.
    """
    run = _chosen(analysis, scan, backbone)
    require_intact(run.path)
    return run


def _chosen(analysis: Path, scan: RunFolder, backbone: str | None) -> RunFolder:
    found = newest_vectors(analysis, scan)
    if not found:
        raise UserError(
            "no vectors yet for this scan: run `pellucid embed STUDY --backbone NAME` (or `pellucid run STUDY`)"
        )
    if backbone is None:
        order = {"run": 0, "timm": 1, "timm-random": 2, "pixels": 3}
        return found[min(reversed(found), key=lambda name: order.get(name.partition(":")[0], 1))]
    known = _newest(analysis, scan)
    if backbone in known and backbone not in found:
        return known[backbone]  # derived vectors only by their full name
    wanted = f"run:{Path(backbone[4:]).name}" if backbone.startswith("run:") else backbone
    if wanted not in found:
        raise UserError(f"no vectors of `{backbone}`{did_you_mean(wanted, known)}; available: {', '.join(known)}")
    return found[wanted]


def choose_patient_vectors(analysis: Path, images_run: RunFolder, how: str) -> RunFolder:
    """The newest run of patient vectors derived from a run of image vectors (`embed.patients`).

    Raises:
        UserError: there is none with that rule.
    """
    for run in reversed(newest_runs(analysis, "embed", images_run)):
        if read_spec(run.path).get("per_patient") == how:
            require_intact(run.path)
            return run
    raise UserError(
        f"no patient vectors with rule `{how}` were made from {images_run.path.name}: run `pellucid embed` with "
        f"embed.patients={how}"
    )
