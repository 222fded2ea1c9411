"""The scan on a Dask cluster: two workers, one of them killed on the way, and the result of an undisturbed scan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[3]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_no_scheduler_is_said_plainly(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--dask tcp://127.0.0.1:9: no scheduler answers there"):
        scan(load_study(phantom, [f"analysis={tmp_path}"]), progress=False, dask="tcp://127.0.0.1:9")


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(phantom: Path, scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    from distributed import Client

    address_file = tmp_path / "scheduler.json"
    processes = [start("distributed.cli.dask_scheduler", "--scheduler-file", str(address_file), "--port", "0",
                       "--no-dashboard", "--host", "127.0.0.1")]  # fmt: skip
    try:
        workers = [
            start("distributed.cli.dask_worker", "--scheduler-file", str(address_file), "--nthreads", "1", "--no-nanny",
                  "--no-dashboard", "--name", f"w{i}", "--local-directory", str(tmp_path))
            for i in range(2)
        ]  # fmt: skip
        processes += workers
        with Client(scheduler_file=str(address_file), timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
            killed: list[str] = []

            def kill_one_that_works() -> None:
                rows = tmp_path / "analysis" / "read"
                while not any(rows.glob("*/rows/rows-*.parquet")):  # under way: a chunk is finished, others are not
                    time.sleep(0.02)
                workers[0].send_signal(signal.SIGKILL)
                killed.append("w0")

            thread = threading.Thread(target=kill_one_that_works, daemon=True)
            thread.start()
            # Small chunks, so that many are left when the worker dies.
            study = load_study(phantom, [f"analysis={tmp_path / 'analysis'}", "scan.shard_images=4"])
            run = scan(study, progress=False, dask=address)
            thread.join(10)
            assert killed, "the worker was killed while there was work to do"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    alone = pd.read_parquet(scanned[1].path / "manifest.parquet").drop(columns=["shard", "shard_row"])
    together = pd.read_parquet(run.path / "manifest.parquet").drop(columns=["shard", "shard_row"])
    pd.testing.assert_frame_equal(together, alone)
