"""The process group of a training: one process by default, several under torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.cohort.errors import Preempted, UserError
from pellucid.cohort.runs import atomic_path
from pellucid.embed.backbones import pick_device

PREEMPTED_FILE = "PELLUCID_PREEMPTED"  # environment variable, see docs/cluster.md
TIMEOUT_S = 1800.0
# Beginnings of the error messages of PyTorch's back ends after the loss of a process; few have their own exception
# class.
_LOST = ("gloo", "nccl", "connection reset", "connection closed", "timed out", "timeout", "broken pipe")
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process (`rank`) among the `world` processes of the training, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """True in all processes if `flag` is true in at least one."""
        if self.world == 1:
            return flag
        shared = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared.item() > 0)

    def gather(self, rows: Tensor) -> Tensor:
        """(b, …) of each process → (world · b, …), in the order of the global batch."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: T) -> T:
        """The first process's `value`, in all processes."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def first_does(self, work: Callable[[], object]) -> None:
        """Run `work` in the first process while the others wait.

        Raises:
            UserError: in all processes, if `work` raised one in the first.
        """
        if self.world == 1:
            work()
            return
        problem = None
        if self.first:
            try:
                work()
            except UserError as error:
                problem = str(error)
        problem = self.broadcast(problem)
        if problem is not None:
            raise UserError(problem)

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def join_ranks(device: str = "auto", timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """Join the process group of torchrun (RANK, WORLD_SIZE, LOCAL_RANK); without torchrun, be the only process.

    When the block ends with `Preempted`, the first process writes a file for the job script: see
    `write_preempted_file`.

    Args:
        timeout_s: longest wait for a process that does not respond.

    Raises:
        UserError: no such device; or another process ended or does not respond.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joined_here = world > 1 and not dist.is_initialized()
    clean = False
    try:
        if joined_here:
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
        ranks = Ranks(rank, world, chosen)
        try:
            yield ranks
        except Preempted as stopped:
            if ranks.first:
                write_preempted_file(str(stopped))
            ranks.wait()  # torchrun ends all processes when one exits: the file must exist by then
            clean = True
            raise
        clean = True
    except RuntimeError as error:
        if world == 1 or not _is_lost_process(error):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"process {rank} of {world}: another process of this training ended, or did not respond for "
            f"{timeout_s:,.0f} s ({first_line}). See its last messages for the reason. The checkpoints are intact: "
            "rerun the command to continue from the newest"
        ) from error
    finally:
        # NCCL may wait for ever for a lost process; the end of this process releases everything as well.
        if joined_here and dist.is_initialized() and (clean or chosen.type == "cpu"):
            dist.destroy_process_group()


def _is_lost_process(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(beginning in text for beginning in _LOST)


def write_preempted_file(message: str) -> None:
    """Write `message` to the file in the environment variable PELLUCID_PREEMPTED, if it is set.

    torchrun exits with 1 regardless of the exit codes of its processes, so a job script cannot see the exit code 75 of
    a training that was stopped after saving a checkpoint. It can check for this file instead.
    """
    named = os.environ.get(PREEMPTED_FILE)
    if named:
        with atomic_path(Path(named)) as temporary:
            temporary.write_text(message + "\n", encoding="utf-8")
