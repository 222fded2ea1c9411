"""The processes of one training: one by default, several under torchrun; what they must agree on goes through here."""

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

PREEMPTED_FILE = "PELLUCID_PREEMPTED"  # environment variable; docs/cluster.md says what it is for
TIMEOUT_S = 1800.0
# How PyTorch's back ends begin their complaints when another process is gone; few of them have a class of their own.
_LOST = ("gloo", "nccl", "connection reset", "connection closed", "timed out", "timeout", "broken pipe")
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of the training."""

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
        """True for all if it is true for one."""
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
        """The first process's `value`, everywhere."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def first_does(self, work: Callable[[], object]) -> None:
        """Have the first process do `work` while the others wait for it; none goes on if it fails.

        Raises:
            UserError: in every process, if `work` raised one in the first.
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
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` | `cpu` | `cuda` | `cuda:N` as a device that is there.

    Raises:
        UserError: it is not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdigit()):
        raise UserError(f"device `{name}`: choose auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    index = int(number) if number else local_rank
    if index >= torch.cuda.device_count():
        raise UserError(
            f"device `{name}`: PyTorch sees {torch.cuda.device_count()} CUDA devices, number {index} is not one of "
            "them; use device cpu, or start fewer processes"
        )
    return torch.device("cuda", index)


@contextlib.contextmanager
def join_ranks(device: str = "auto", timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """Join the other processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or stand alone without it.

    When the block ends with `Preempted`, the first process leaves word for whoever started it: see `write_preempted_file`.

    Args:
        timeout_s: how long to wait for a process that does not answer.

    Raises:
        UserError: no such device; or another process has died or does not answer.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
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
            ranks.wait()  # torchrun ends all when one has left: the word must be written by then
            clean = True
            raise
        clean = True
    except RuntimeError as error:
        if world == 1 or not _says_lost(error):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"process {rank} of {world}: another process of this training has died, or has not answered for "
            f"{timeout_s:,.0f} s ({first_line}); its own last words say why. The checkpoints are as they were: repeat the "
            "command to continue from the newest"
        ) from error
    finally:
        # NCCL may wait for ever for a process that is gone; the end of this one frees everything as well.
        if joined_here and dist.is_initialized() and (clean or chosen.type == "cpu"):
            dist.destroy_process_group()


def _says_lost(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _LOST)


def write_preempted_file(message: str) -> None:
    """Write `message` into the file that the environment variable PELLUCID_PREEMPTED names, if it names one.

    torchrun answers 1 whatever its processes answered, so a script that starts it cannot see the 75 of a training that
    was stopped and has saved itself; it can see this file.
    """
    named = os.environ.get(PREEMPTED_FILE)
    if named:
        with atomic_path(Path(named)) as temporary:
            temporary.write_text(message + "\n", encoding="utf-8")
