"""Run folders: content-addressed, resumable, renamed into place when whole."""

from pellucid.cohort.runs.atomic_files import atomic_path, clear_parts, exclusive, is_held, sync_path, write_json
from pellucid.cohort.runs.checksums import SUMS, DamagedRun, sha256_file, verify
from pellucid.cohort.runs.folder import RunFolder, begin_run, join_run
from pellucid.cohort.runs.history import descendants, finished_runs, list_runs, newest_runs, open_finished, parent_of
from pellucid.cohort.runs.integrity import how_to_repair, read_verified, require_intact, require_intact_if_finished
from pellucid.cohort.runs.rewrite import (
    all_locked,
    edit_folder,
    filter_parquet,
    filter_rows,
    finish_interrupted,
    forgotten,
    knows,
    remove_folder,
)

__all__ = [
    "SUMS",
    "DamagedRun",
    "RunFolder",
    "all_locked",
    "atomic_path",
    "begin_run",
    "clear_parts",
    "descendants",
    "edit_folder",
    "exclusive",
    "filter_parquet",
    "filter_rows",
    "finish_interrupted",
    "finished_runs",
    "forgotten",
    "how_to_repair",
    "is_held",
    "join_run",
    "knows",
    "list_runs",
    "newest_runs",
    "open_finished",
    "parent_of",
    "read_verified",
    "remove_folder",
    "require_intact",
    "require_intact_if_finished",
    "sha256_file",
    "sync_path",
    "verify",
    "write_json",
]
