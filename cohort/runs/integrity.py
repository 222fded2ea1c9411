"""Whether the files of a finished run are as they were written: every command checks the runs that it uses.

A file of up to 2 GB is hashed by each process that uses its run. Larger files, and the folders with many files
(`BULK`), are hashed when their size or times differ from those at which they were last found intact, which
`.verified.json` in the run's folder records: a study with terabytes of prepared copies would otherwise be read whole by
every command. Prepared copies also have a checksum each, compared whenever one is read. Another time is only a reason
to hash a file again, not damage, so that a copied study stays intact.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pellucid.cohort.progress import is_first_process, track
from pellucid.cohort.runs.atomic_files import write_json
from pellucid.cohort.runs.checksums import SUMS, DamagedRun, cannot_be_read, is_damaged, read_sums, sha256_file
from pellucid.cohort.runs.private_files import private_files

BULK = ("prepared", "rows", "checkpoints")
VERIFIED = ".verified.json"
RECORDED = frozenset({"stage", "name", "key", "parents", "ended"})  # what every record of a run has
ALWAYS_HASHED_BYTES = 2 << 30
_SHOWN_FROM_BYTES = 4 << 30  # hashing less is not worth a progress line

Signature = list[int]  # size in bytes, times of the last change of content and of the inode in ns
_intact: dict[str, Signature] = {}  # files that this process has found intact


def require_intact(*folders: Path) -> None:
    """Check finished runs and the runs that they were made from, each once, as far as they are still there.

    Raises:
        DamagedRun: names the file, what was expected, and the commands that repair it.
    """
    for run in _lineage(folders):
        wrong = find_damage(run)
        if wrong:
            raise DamagedRun("\n".join([*wrong, how_to_repair(run)]))


def require_intact_if_finished(folder: Path) -> None:
    """As `require_intact`; a folder without checksums, such as one of `embed --out`, has nothing to compare.

    Raises:
        DamagedRun: as above.
    """
    if (folder / SUMS).is_file():
        require_intact(folder)


def find_damage(folder: Path) -> list[str]:
    """What is wrong with a finished run's files: one sentence each, none when all are as written."""
    try:
        sums = read_sums(folder)
    except DamagedRun as damage:
        return [str(damage)]
    recorded = _read_verified(folder)
    deleted = {name for name in BULK if not (folder / name).is_dir()}  # to save space: what needs them says so
    wrong, doubtful, bulk = [], [], {}
    for name, digest in sums.items():
        if name.partition("/")[0] in deleted:
            continue
        path = folder / name
        try:
            now = _signature(path)
        except (FileNotFoundError, NotADirectoryError):
            wrong.append(f"{path}: is gone; {SUMS} lists it")
            continue
        except OSError as error:
            wrong.append(cannot_be_read(path, error))
            continue
        if _is_bulk(name, now):
            bulk[name] = now
        known = _intact.get(str(path)) or (recorded.get(name) if name in bulk else None)
        if now != known:
            doubtful.append((path, digest, now))
    wrong += _compare(folder, doubtful)
    if not wrong and bulk != recorded:
        _write_verified(folder, bulk)
    return wrong


def mark_intact(working: Path, final: Path) -> None:
    """Remember the files of a run that has just been written and hashed in `working`, and will be `final`."""
    bulk = {}
    for name in read_sums(working):
        signature = _signature(working / name)
        _intact[str(final / name)] = signature
        if _is_bulk(name, signature):
            bulk[name] = signature
    if bulk:
        _write_verified(working, bulk)


def read_verified(folder: Path, name: str) -> bytes:
    """The content of a small file of a finished run, compared with its checksum whenever it is read.

    Raises:
        DamagedRun: it is not what was written.
    """
    path = folder / name
    try:
        digest = read_sums(folder).get(name)
    except DamagedRun as damage:
        raise DamagedRun(f"{damage}\n{how_to_repair(folder)}") from None
    if digest is None or not path.is_file():
        raise DamagedRun(f"{path}: is gone, or its line in {SUMS} is damaged\n{how_to_repair(folder)}")
    wrong = _compare(folder, [(path, digest, _signature(path))])
    if wrong:
        raise DamagedRun("\n".join([*wrong, how_to_repair(folder)]))
    return path.read_bytes()


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a finished run's `run.json`.

    Raises:
        DamagedRun: it is not what was written.
    """
    content = json.loads(read_verified(folder, "run.json"))
    if not isinstance(content, dict) or not RECORDED.issubset(content):
        raise DamagedRun(f"{folder / 'run.json'}: is not the record of a run of this version\n{how_to_repair(folder)}")
    return content


def how_to_repair(folder: Path) -> str:
    """The commands after which a damaged run is whole again."""
    analysis = folder.parent.parent
    study = shlex.quote(str(analysis.parent)) if (analysis.parent / "study.yaml").is_file() else "STUDY"
    return (
        f"restore the file from a backup, or quarantine the run with `pellucid tidy {study} --damaged --yes` and "
        f"compute it again with `{_command(folder, study)}`"
    )


def _command(folder: Path, study: str) -> str:
    """The command that makes a run of this folder."""
    stage = folder.parent.name
    config: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it may be the damaged file
        _signature(folder / "run.json")  # not of a pipe
        config = dict(json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"])
    if "take_out" in config:
        return f"pellucid take-out {study} --factor {config['take_out']} --by {config.get('remedy')}"
    if "patients" in config and stage == "embed":
        return f"pellucid embed {study} embed.patients={config['patients']}"
    backbone = str(config.get("backbone", ""))
    chosen = f' --backbone "{backbone}"' if backbone and not backbone.startswith("run:") else ""
    return f"pellucid {'scan' if stage == 'read' else stage} {study}{chosen}"


def _lineage(folders: Sequence[Path]) -> list[Path]:
    """The runs and their ancestors, each once, parents before children; an ancestor that is gone is left out."""
    found: list[Path] = []
    seen: set[Path] = set()

    def visit(run: Path) -> None:
        place = run.resolve()
        if place in seen or (run not in folders and not run.is_dir()):
            return
        seen.add(place)
        for parent in read_record(run)["parents"]:
            visit(Path(os.path.normpath(run.parent.parent / parent["path"])))
        found.append(run)

    for folder in folders:
        visit(folder)
    return found


def _signature(path: Path) -> Signature:
    """
    Raises:
        OSError: there is no file, or something else than a file, such as a pipe, whose reading would not end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a file any more")
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _is_bulk(name: str, signature: Signature) -> bool:
    return name.partition("/")[0] in BULK or signature[0] > ALWAYS_HASHED_BYTES


def _compare(folder: Path, files: list[tuple[Path, str, Signature]]) -> list[str]:
    """A sentence for each file whose content does not have its sha256; the others are remembered as intact."""
    if not files:
        return []
    n_bytes = sum(signature[0] for _, _, signature in files)
    shown = n_bytes > _SHOWN_FROM_BYTES and is_first_process()
    wrong = []
    with (
        track(f"checking {folder.parent.name}/{folder.name}", len(files), "files", shown) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        found = pool.map(_digest_or_error, [path for path, _, _ in files])
        for (path, digest, signature), now in zip(files, found, strict=True):
            advance(1)
            if isinstance(now, OSError):
                wrong.append(cannot_be_read(path, now))
            elif now == digest:
                _intact[str(path)] = signature
            else:
                wrong.append(is_damaged(path, digest, now))
    return wrong


def _digest_or_error(path: Path) -> str | OSError:
    try:
        return sha256_file(path)
    except OSError as error:
        return error


def _read_verified(folder: Path) -> dict[str, Signature]:
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        content = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
        return {str(name): list(signature) for name, signature in content["files"].items()}
    return {}


def _write_verified(folder: Path, bulk: dict[str, Signature]) -> None:
    with contextlib.suppress(OSError), private_files(folder):  # an archive that is read-only is hashed again
        write_json(folder / VERIFIED, {"schema": "pellucid.verified/1", "files": bulk})
