"""`pellucid pretrain FOLDER`, on the hand-made scan of conftest.py; told to, it holds a step until a signal has come
in.

HOLD_AT=4 HOLD_RANKS=0,1: these processes write `ready.RANK` (their process id) into FOLDER in step 4 and wait until
each of them has heard a signal, so that a test knows at which step the training was asked to stop.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import FrameType

import pellucid.pretrain.engine.loop
import pellucid.pretrain.stage
from pellucid.cli.app import exit_code
from pellucid.cohort.runs.history import open_finished
from pellucid.cohort.study import load_study
from pellucid.pretrain.engine.preemption import StopRequests
from pellucid.pretrain.recipe import Recipe


def main() -> int:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    assert verb == "pretrain"
    rank = os.environ.get("RANK", "0")
    hold_at, hold_ranks = int(os.environ.get("HOLD_AT", "-1")), os.environ.get("HOLD_RANKS", "").split(",")
    scheduled, hear = pellucid.pretrain.engine.loop.scheduled, StopRequests.on_signal

    def heard(self: StopRequests, number: int, frame: FrameType | None) -> None:
        hear(self, number, frame)
        (folder / f"heard.{rank}").touch()

    def hold(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
        if step == hold_at and rank in hold_ranks:
            (folder / f"ready.{rank}.tmp").write_text(str(os.getpid()))
            (folder / f"ready.{rank}.tmp").rename(folder / f"ready.{rank}")
            while not all((folder / f"heard.{other}").exists() for other in hold_ranks):
                time.sleep(0.02)
        return scheduled(recipe, step, steps)

    StopRequests.on_signal, pellucid.pretrain.engine.loop.scheduled = heard, hold  # type: ignore[method-assign]
    (scan,) = (folder / "analysis" / "scan").glob("scan-*")
    try:
        pellucid.pretrain.stage.pretrain(load_study(folder), open_finished(scan), device="cpu", progress=False)
    except Exception as error:
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
