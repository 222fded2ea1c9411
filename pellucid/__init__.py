"""Pretrain a vision backbone on clinical images, embed them, and audit what the embeddings encode.

A study is a folder of images with a `study.yaml` (docs/study.md); `draft_study` writes a first one. Each command of
`pellucid --help` is also a function. It takes the study's path or a loaded `Study`, reuses finished runs, and returns
the run that it made:

    import pellucid

    run = pellucid.run_study("my-study")              # every stage, from scan to report
    print(run.path / "report.html")

    pellucid.scan_study("my-study", ["split.test=0.3"])        # or one stage after the other
    pellucid.pretrain_study("my-study", device="cuda")
    vectors = pellucid.load_vectors(pellucid.embed_study("my-study").path)     # .values (n, dim), .images (n rows)
    audit = pellucid.audit_study("my-study").read_json("audit.json")

Whole pipeline      run_study, run_demo, study_status, tidy_study
Data                draft_study, load_study, scan_study, deidentify_study, withdraw_patients
Vectors             pretrain_study, embed_study, near_study, cluster_study, search_study, export_study, erase_factor
Findings            probe_study, audit_study, report_study, explore_study

Without a study, on arrays, files and folders:

    found = pellucid.audit(vectors, table, patient="patient_id", clinical=["diagnosis"], acquisition=["device"])

    audit, embed_array, embed_folder, load_backbone, load_vectors, read_image, search_image, withdraw_images

Mistakes in files or arguments raise `UserError`, whose text says what to correct.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Must be set before torch is loaded: threads that spin while they wait make two processes on the same cores several
# times slower than one after the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pellucid.api.audit_functions import audit_study as audit_study
    from pellucid.api.audit_functions import probe_study as probe_study
    from pellucid.api.data_functions import deidentify_study as deidentify_study
    from pellucid.api.data_functions import scan_study as scan_study
    from pellucid.api.study_functions import explore_study as explore_study
    from pellucid.api.study_functions import report_study as report_study
    from pellucid.api.study_functions import run_study as run_study
    from pellucid.api.study_functions import study_status as study_status
    from pellucid.api.study_functions import tidy_study as tidy_study
    from pellucid.api.study_functions import withdraw_images as withdraw_images
    from pellucid.api.study_functions import withdraw_patients as withdraw_patients
    from pellucid.api.vector_functions import cluster_study as cluster_study
    from pellucid.api.vector_functions import embed_study as embed_study
    from pellucid.api.vector_functions import erase_factor as erase_factor
    from pellucid.api.vector_functions import export_study as export_study
    from pellucid.api.vector_functions import near_study as near_study
    from pellucid.api.vector_functions import pretrain_study as pretrain_study
    from pellucid.api.vector_functions import search_study as search_study
    from pellucid.cohort.draft import draft_study as draft_study
    from pellucid.cohort.errors import UserError as UserError
    from pellucid.cohort.readers import read_image as read_image
    from pellucid.cohort.study import Study as Study
    from pellucid.cohort.study import load_study as load_study
    from pellucid.embed.backbones.backbone import load_backbone as load_backbone
    from pellucid.embed.extract.in_memory import embed_array as embed_array
    from pellucid.embed.extract.plain_folder import embed_folder as embed_folder
    from pellucid.embed.search import search_image as search_image
    from pellucid.embed.store.vectors import load_vectors as load_vectors
    from pellucid.pipeline import run_demo as run_demo
    from pellucid.probes.audit import audit as audit

# Module of each public name. It is imported on first use: torch alone takes seconds.
_MODULES = {
    "Study": "pellucid.cohort.study",
    "UserError": "pellucid.cohort.errors",
    "audit": "pellucid.probes.audit",
    "audit_study": "pellucid.api.audit_functions",
    "cluster_study": "pellucid.api.vector_functions",
    "deidentify_study": "pellucid.api.data_functions",
    "draft_study": "pellucid.cohort.draft",
    "embed_array": "pellucid.embed.extract.in_memory",
    "embed_folder": "pellucid.embed.extract.plain_folder",
    "embed_study": "pellucid.api.vector_functions",
    "erase_factor": "pellucid.api.vector_functions",
    "explore_study": "pellucid.api.study_functions",
    "export_study": "pellucid.api.vector_functions",
    "load_backbone": "pellucid.embed.backbones.backbone",
    "load_study": "pellucid.cohort.study",
    "load_vectors": "pellucid.embed.store.vectors",
    "near_study": "pellucid.api.vector_functions",
    "pretrain_study": "pellucid.api.vector_functions",
    "probe_study": "pellucid.api.audit_functions",
    "read_image": "pellucid.cohort.readers",
    "report_study": "pellucid.api.study_functions",
    "run_demo": "pellucid.pipeline",
    "run_study": "pellucid.api.study_functions",
    "scan_study": "pellucid.api.data_functions",
    "search_image": "pellucid.embed.search",
    "search_study": "pellucid.api.vector_functions",
    "study_status": "pellucid.api.study_functions",
    "tidy_study": "pellucid.api.study_functions",
    "withdraw_images": "pellucid.api.study_functions",
    "withdraw_patients": "pellucid.api.study_functions",
}

__all__ = [
    "Study",
    "UserError",
    "audit",
    "audit_study",
    "cluster_study",
    "deidentify_study",
    "draft_study",
    "embed_array",
    "embed_folder",
    "embed_study",
    "erase_factor",
    "explore_study",
    "export_study",
    "load_backbone",
    "load_study",
    "load_vectors",
    "near_study",
    "pretrain_study",
    "probe_study",
    "read_image",
    "report_study",
    "run_demo",
    "run_study",
    "scan_study",
    "search_image",
    "search_study",
    "study_status",
    "tidy_study",
    "withdraw_images",
    "withdraw_patients",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("pellucid")
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__")), "__version__"])


def main() -> None:
    """Run the command line, `pellucid COMMAND …`."""
    from pellucid.cli.app import main as run

    run()
