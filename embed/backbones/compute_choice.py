"""How a network is computed: number type, attention kernel and memory layout, timed once per network and machine.

Processor flags do not predict speed: with `avx512_bf16` alone, bfloat16 takes twice the time of float32; with AMX, a
third (benchmarks/LOG.md). Therefore the possible ways are timed for about a second, with one thread, and the fastest is
chosen. The choice and its timings are cached in `$XDG_CACHE_HOME/pellucid/compute.json` (delete it to time again) and
recorded with the results. The first process of a job makes the choice for all processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path

Precision = Literal["auto", "float32", "bfloat16", "float16"]
FORCED = "PELLUCID_PRECISION"  # environment variable: the number type that `auto` means; disables timing
CACHE = "PELLUCID_CACHE"  # environment variable: folder of the cache file, instead of $XDG_CACHE_HOME/pellucid
LEAST_GAIN = 1.1  # a 16-bit type must be this much faster than float32
BUDGET_S = 0.4  # for all repetitions together; every option runs at least twice
_DROPPED_ABOVE = 1.3  # options this many times slower than the fastest are not repeated
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """One way of computing a network, and why it was chosen.

    Attributes:
        precision: number type of matrix products: float32, bfloat16 or float16. Norms, softmax and pooling use float32.
        attention: `fused` (PyTorch's kernel) or `explicit` (matrix products).
        layout: `contiguous`, or `channels_last` (convolutional networks).
        reason: timed, asked for, forced (by the environment variable) or default.
        seconds: time of one pass of a few images, by option; empty if nothing was timed.
        device: name of the processor or GPU on which it was chosen.
        threads: threads of one worker; 0 on a GPU.
    """

    precision: str = "float32"
    attention: str = "fused"
    layout: str = "contiguous"
    reason: str = field(default="default", compare=False)
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    device: str = field(default="", compare=False)
    threads: int = field(default=0, compare=False)

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.precision]

    def __str__(self) -> str:
        layout = ", channels_last" if self.layout == "channels_last" else ""
        return f"{self.precision}, {self.attention} attention{layout}"

    def autocast(self, device_type: str) -> torch.autocast:
        """The autocast context in which the network runs."""
        lower = self.precision != "float32"
        return torch.autocast(device_type, self.dtype if lower else torch.bfloat16, enabled=lower)

    def placed(self, pixels: Tensor) -> Tensor:
        """(n, 3, s, s) in the memory layout of the network."""
        return pixels.contiguous(memory_format=torch.channels_last) if self.layout == "channels_last" else pixels

    def record(self) -> dict[str, Any]:
        """For `spec.json` and the cache: plain JSON values."""
        names = ("precision", "attention", "layout", "reason", "device", "threads")
        return {**{name: getattr(self, name) for name in names}, "seconds": dict(self.seconds)}

    def sentence(self) -> str:
        """The choice, and the timings in milliseconds."""
        times = ", ".join(
            f"{way}: {1000 * s:.0f} ms" for way, s in sorted(self.seconds.items(), key=lambda item: item[1])
        )
        return f"{self} ({self.reason}{f'; {times}' if times else ''}{f'; {self.device}' if self.device else ''})"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Compute:
        """The inverse of `record`.

        Raises:
            KeyError, TypeError, ValueError: not such a record.
        """
        compute = cls(**{name: record[name] for name in cls.__dataclass_fields__})
        if compute.precision not in _DTYPES or not isinstance(compute.seconds, Mapping):
            raise ValueError("not a record of a way of computing")
        return compute

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Compute:
        """How the vectors of a store were computed, from its `spec.json`."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return cls.from_record(spec["compute"])
        precision = str(spec.get("computed_in", "float32"))  # written by an earlier version
        return cls(precision if precision in _DTYPES else "float32", "explicit" if precision == "bfloat16" else "fused")


@dataclass(frozen=True)
class Hardware:
    """The properties of a device that matter here.

    Attributes:
        kind: cpu or cuda.
        name: name of the processor or GPU.
        half: the 16-bit type that it has instructions for: bfloat16, float16 or none ("").
    """

    kind: str
    name: str
    half: str

    @classmethod
    def from_device(cls, device: torch.device) -> Hardware:
        """Describe a device of this machine."""
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return cls("cuda", torch.cuda.get_device_name(device), "bfloat16" if native else "float16")
        name, flags = platform.processor() or platform.machine(), ""
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    name = value.strip()
                if key.strip() in {"flags", "Features"}:
                    flags = value
                    break
        return cls("cpu", name, "bfloat16" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()) else "")


def possible(model: nn.Module, hardware: Hardware, asked: str = "auto") -> list[Compute]:
    """The ways of computing a network that are worth timing, the plainest first.

    Raises:
        UserError: float16 was requested on a CPU.
    """
    if asked == "float16" and hardware.kind == "cpu":
        raise UserError("precision float16 is for GPUs: choose auto, float32 or bfloat16 on a CPU")
    types = ["float32", *([hardware.half] if hardware.half else [])] if asked == "auto" else [asked]
    attention = ["fused", "explicit"] if hardware.kind == "cpu" and has_attention(model) else ["fused"]
    layouts = ["contiguous", "channels_last"] if is_convolutional(model) else ["contiguous"]
    return [Compute(t, a, m) for t in types for a in attention for m in layouts]


def measured(options: Sequence[Compute], one_pass: Callable[[Compute], float], budget_s: float) -> dict[Compute, float]:
    """Seconds of the fastest pass of each option; options alternate, so that other work on the machine affects all
    alike.

    Args:
        one_pass: runs the network once and returns the seconds.
    """
    fastest: dict[Compute, float] = {}
    left = list(options)
    for option in left:
        one_pass(option)  # warm-up: allocates memory, prepares kernels
    began = time.perf_counter()
    while not fastest or (len(left) > 1 and time.perf_counter() - began < budget_s):
        for option in left:
            fastest[option] = min(fastest.get(option, math.inf), one_pass(option))
        best = min(fastest.values())
        left = [option for option in left if fastest[option] < _DROPPED_ABOVE * best]
    return fastest


def best_of(seconds: Mapping[Compute, float]) -> Compute:
    """The fastest option; a 16-bit type only if it is at least a tenth faster than float32."""
    full = [option for option in seconds if option.precision == "float32"]
    fastest = min(seconds, key=lambda option: seconds[option])
    if full and fastest.precision != "float32":
        plain = min(full, key=lambda option: seconds[option])
        if seconds[plain] < LEAST_GAIN * seconds[fastest]:
            return plain
    return fastest


def choose(
    model: nn.Module,
    one_pass: Callable[[Compute], float],
    *,
    work: str,
    hardware: Hardware,
    asked: str = "auto",
    threads: int = 1,
    budget_s: float = BUDGET_S,
) -> Compute:
    """Choose how to compute a network: forced, cached or timed.

    Args:
        one_pass: see `measured`; only called if no choice is cached.
        work: what is timed (inference at 224 px …): part of the cache key.
        asked: auto, or the requested number type; kernel and layout are still timed.
        threads: threads of one worker.

    Raises:
        UserError: an unknown number type in the environment, or float16 on a CPU.
    """
    options = possible(model, hardware, asked)
    on: dict[str, Any] = {"device": hardware.name, "threads": threads if hardware.kind == "cpu" else 0}
    forced = os.environ.get(FORCED, "")
    if forced:
        if forced not in _DTYPES:
            raise UserError(
                f"the environment variable {FORCED} is `{forced}`: set it to {' or '.join(_DTYPES)}, or unset it"
            )
        precision = forced if asked == "auto" else asked
        possible(model, hardware, precision)
        return replace(plainest(precision, hardware), reason="forced" if asked == "auto" else "asked for", **on)
    reason = "timed" if asked == "auto" else "asked for"
    if len(options) == 1:
        return replace(options[0], reason=reason, **on)
    key = ", ".join(
        [
            f"network {architecture(model)[:16]}",
            work,
            hardware.name,
            f"{on['threads']} threads",
            f"torch {torch.__version__}",
            asked,
        ]
    )
    known = remembered(key)
    if known is not None and known in options:
        return known
    seconds = measured(options, one_pass, budget_s)
    rounded = {str(option): round(s, 5) for option, s in seconds.items()}
    chosen = replace(best_of(seconds), reason=reason, seconds=rounded, **on)
    remember(key, chosen)
    return chosen


def plainest(precision: str, hardware: Hardware) -> Compute:
    """The choice without timing: on a CPU the fused kernel is slow in bfloat16."""
    explicit = hardware.kind == "cpu" and precision != "float32"
    return Compute(precision, "explicit" if explicit else "fused")


# --- properties of a network, and applying a choice to it ---


def architecture(model: nn.Module) -> str:
    """Hex sha256 over a network's modules and shapes, on which its speed depends; independent of the weights."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(repr((shapes, [type(module).__name__ for module in model.modules()])).encode()).hexdigest()


def has_attention(model: nn.Module) -> bool:
    """Whether the network's attention kernel can be chosen."""
    chooses = callable(getattr(model, "set_attn_implementation", None))  # networks of transformers
    return chooses or any(isinstance(getattr(m, "fused_attn", None), bool) for m in model.modules())


def is_convolutional(model: nn.Module) -> bool:
    """Whether it has convolutions other than the patch embedding, whose stride equals its kernel."""
    return any(isinstance(module, nn.Conv2d) and module.kernel_size != module.stride for module in model.modules())


def apply(model: nn.Module, compute: Compute) -> None:
    """Set attention kernel and memory layout of a network in place; the values of its weights do not change."""
    set_attention(model, compute.attention)
    if is_convolutional(model):
        last = compute.layout == "channels_last"
        model.to(memory_format=torch.channels_last if last else torch.contiguous_format)


def set_attention(model: nn.Module, attention: str) -> None:
    """Set `fused` or `explicit` attention in this network only."""
    choose_kernel = getattr(model, "set_attn_implementation", None)  # networks of transformers
    if callable(choose_kernel):
        choose_kernel("eager" if attention == "explicit" else "sdpa")
    for module in model.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):  # timm
            module.fused_attn = attention == "fused"  # type: ignore[assignment]


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Restore attention kernel and memory layout of a timm network at the end of the block."""
    flags = [(m, m.fused_attn) for m in model.modules() if isinstance(getattr(m, "fused_attn", None), bool)]
    conv = next(
        (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1 and m.kernel_size != (1, 1)),
        None,
    )
    last = conv is not None and conv.weight.is_contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for module, fused in flags:
            module.fused_attn = fused
        if is_convolutional(model):
            model.to(memory_format=torch.channels_last if last else torch.contiguous_format)


@contextlib.contextmanager
def threads_of(number: int) -> Iterator[None]:
    """Set the number of PyTorch threads of one operation within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that `run` takes on the device; on a CPU, the CPU time of this thread, which other processes do not
    affect.

    On a CPU, products must be single-threaded (`threads_of(1)`).
    """
    if device.type == "cpu":
        began = time.thread_time()
        run()
        return time.thread_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


# --- the cache of choices; a cache that cannot be read or written is never an error ---

CHOICES: dict[tuple[str, str], Compute] = {}  # of this process, in case the file cannot be written


def cache_path() -> Path:
    """The cache file."""
    own = os.environ.get(CACHE)
    if own:
        return Path(own) / "compute.json"
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "pellucid" / "compute.json"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / "pellucid" / "compute.json"


def remembered(key: str) -> Compute | None:
    """A cached choice, or None."""
    path = cache_path()
    if (str(path), key) in CHOICES:
        return CHOICES[str(path), key]
    try:
        return Compute.from_record(_stored(path)[key])
    except (KeyError, TypeError, ValueError):
        return None


def remember(key: str, compute: Compute) -> None:
    """Cache a choice for this process and, if the file can be written, for later ones."""
    path = cache_path()
    CHOICES[str(path), key] = compute
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**_stored(path), key: compute.record()}, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _stored(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
