"""What every test may use: a small phantom study, scanned once a session, and the command line as a person runs it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pellucid as front_door
from pellucid.cohort.intake import child_process
from pellucid.cohort.intake.sandbox import close_readers
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the front door does
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # offline is the tested default
# The same numbers on every processor. `make test-bf16` sets another type, for the tests that depend on it.
os.environ.setdefault("PELLUCID_PRECISION", "float32")
_CACHE = tempfile.TemporaryDirectory(prefix="pellucid-cache-")  # choices of this machine's user are not ours
os.environ["PELLUCID_CACHE"] = _CACHE.name

Run = Callable[..., "subprocess.CompletedProcess[str]"]


LONG_FIXTURES = {"phantom", "own_phantom", "scanned", "pellucid", "pellucid_process", "cohort", "served", "played"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that reads a whole study, trains, or starts the command line or a server is `long`."""
    for item in items:
        if LONG_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real clinical images: $PELLUCID_DATA, or `shared/data` beside the repository."""
    for candidate in (os.environ.get("PELLUCID_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "busbra").is_dir():
            return Path(candidate).resolve()
    pytest.skip("real clinical images are not here (set PELLUCID_DATA to the folder that holds busbra/)")


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom study of 30 patients. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("phantom") / "study"
    write_phantom(folder, PhantomConfig(patients=30, images_per_patient=(1, 3), width_px=160, height_px=120))
    return folder


@pytest.fixture(scope="session")
def scanned(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, RunFolder]:
    """The phantom study with its finished scan. Read only."""
    analysis = tmp_path_factory.mktemp("analysis")
    study = load_study(phantom, [f"analysis={analysis}"])
    return study, scan(study, progress=False)


@pytest.fixture
def own_phantom(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom study to do with as one likes."""
    folder = tmp_path / "study"
    shutil.copytree(phantom, folder)
    return folder


# A reading process in which a file called bad.png, or one that contains "crash", crashes the decoder.
_CRASHING = """
import os
import pellucid.cohort.readers as readers
def picky(old):
    def read(first, *others, **options):
        if getattr(first, "name", "") == "bad.png" or (isinstance(first, bytes) and b"crash" in first):
            os.abort()
        return old(first, *others, **options)
    return read
readers.read_pictures, readers.read_image = picky(readers.read_pictures), picky(readers.read_image)
"""


@pytest.fixture
def crashing_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files called bad.png that contain "crash" end the process that decodes them."""
    close_readers()
    head, mark, rest = child_process.START_CODE.partition("from {module}")
    monkeypatch.setattr(child_process, "START_CODE", f"{head}\n{_CRASHING}\n{mark}{rest}")
    yield
    close_readers()


@pytest.fixture(scope="session")
def pellucid() -> Run:
    """Run `pellucid …` in this process: its imports cost seconds each time in one of its own."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        before, argv = signal.getsignal(signal.SIGINT), sys.argv
        sys.argv = ["pellucid", *map(str, arguments)]
        code: object = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                front_door.main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv = argv
            signal.signal(signal.SIGINT, before)
        assert isinstance(code, int)
        return subprocess.CompletedProcess(list(map(str, arguments)), code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def pellucid_process() -> Run:
    """Run `pellucid …` in a process of its own, as a person does."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pellucid", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run
