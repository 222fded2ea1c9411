"""What could raise the limit of extraction on a CPU: one network by several runtimes, in one run, with its numerics.

    python -m benchmarks.extraction_runtimes [--models …] [--rounds 3] [--batch 16] [--only NAME …]

Each variant computes the same images with one thread, as every worker does. Rounds alternate. Prints the median of
images per second of that thread's processor time (not wall time: other work may run on the machine), the ratio to plain
float32, the time to get ready, the lowest cosine with plain float32, and the share of images with the same ten nearest
neighbours (targets: 0.999 and 97 %). Runtimes that are not installed are skipped and listed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.extraction_speed import agreement, machine
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.embed.backbones.compute_choice import set_attention

PICTURES = 192
SECONDS = 3.0  # of the thread
Forward = Callable[[Tensor], NDArray[np.float32]]


def eager(model: nn.Module, x: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(x).float().numpy()  # type: ignore[no-any-return]


def explicit(model: nn.Module, _: Tensor) -> Forward:
    model = copy.deepcopy(model)
    set_attention(model, "explicit")
    return partial(eager, model)


def channels_last(model: nn.Module, _: Tensor) -> Forward:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return lambda x: eager(model, x.contiguous(memory_format=torch.channels_last))


def tanh_gelu(model: nn.Module, _: Tensor) -> Forward:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return partial(eager, model)


def frozen_script(model: nn.Module, x: Tensor) -> Forward:
    """torch.jit: frozen, then oneDNN with weights packed ahead."""
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(copy.deepcopy(model), x))
        traced = torch.jit.optimize_for_inference(traced)
    return partial(eager, traced)


def onednn_linear(model: nn.Module, _: Tensor) -> Forward:
    """Linear layers by oneDNN with weights packed ahead, instead of MKL."""
    from torch.utils import mkldnn

    class Packed(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.inner = mkldnn.MkldnnLinear(linear, torch.float)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Packed(child))
    return partial(eager, model)


def compiled(model: nn.Module, x: Tensor, freezing: bool = False, explicitly: bool = False) -> Forward:
    import torch._inductor.config as inductor

    inductor.freezing = freezing
    torch._dynamo.reset()
    model = copy.deepcopy(model)
    if explicitly:
        set_attention(model, "explicit")
    ready = torch.compile(model, dynamic=False)
    with torch.no_grad():
        ready(x)
    inductor.freezing = False

    def run(y: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(ready(y).float().numpy())

    return run


def dynamic_int8(model: nn.Module, _: Tensor) -> Forward:
    return partial(eager, torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8))


def _onnx(model: nn.Module, x: Tensor) -> Path:
    path = Path(tempfile.mkdtemp()) / "model.onnx"
    model = copy.deepcopy(model)
    set_attention(model, "explicit")
    torch.onnx.export(model, (x,), str(path), dynamo=True, input_names=["x"], verbose=False)
    return path


def onnx_runtime(model: nn.Module, x: Tensor, int8: bool = False) -> Forward:
    import onnxruntime

    path = _onnx(model, x)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ahead = path.with_name("ahead.onnx")
        quant_pre_process(str(path), str(ahead), skip_symbolic_shape=True)
        path = path.with_name("int8.onnx")
        quantize_dynamic(str(ahead), str(path), weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda y: session.run(None, {session.get_inputs()[0].name: y.numpy()})[0]  # type: ignore[no-any-return]


def openvino(model: nn.Module, x: Tensor, int8: bool = False) -> Forward:
    import openvino as ov

    # The library sees no ONNX file: it converts the module itself.
    found = ov.convert_model(copy.deepcopy(model), example_input=x, input=list(x.shape))
    if int8:
        import nncf

        pictures = [(x,)] * 8
        found = nncf.quantize(
            found, nncf.Dataset(pictures, lambda item: item[0].numpy()), model_type=nncf.ModelType.TRANSFORMER
        )
    ready = ov.Core().compile_model(
        found, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda y: np.asarray(next(iter(ready(y.numpy()).values())))


VARIANTS: dict[str, Callable[[nn.Module, Tensor], Forward]] = {
    "float32, torch's attention": lambda model, _: partial(eager, model),
    "explicit attention": explicit,
    "channels last": channels_last,
    "GELU by tanh": tanh_gelu,
    "jit, frozen": frozen_script,
    "oneDNN linear, packed ahead": onednn_linear,
    "compiled": compiled,
    "compiled, frozen": partial(compiled, freezing=True),
    "compiled, frozen, explicit attention": partial(compiled, freezing=True, explicitly=True),
    "dynamic int8 (torch)": dynamic_int8,
    "ONNX Runtime": onnx_runtime,
    "ONNX Runtime, dynamic int8": partial(onnx_runtime, int8=True),
    "OpenVINO": openvino,
    "OpenVINO, static int8": partial(openvino, int8=True),
}


def pictures(size_px: int) -> Tensor:
    """(PICTURES, 3, size_px, size_px) float32, normalised, of a phantom cohort."""
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(
            Path(folder),
            PhantomConfig(patients=PICTURES // 2, images_per_patient=(2, 2), width_px=320, height_px=240, unreadable=0),
        )
        paths = sorted(Path(folder).rglob("*.jpg"))[:PICTURES]
        squares = np.stack([stretch(np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]), size_px) for path in paths])
    return (torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def images_per_second(run: Forward, x: Tensor) -> float:
    run(x)
    began, n = time.process_time(), 0
    while time.process_time() - began < SECONDS:
        run(x)
        n += len(x)
    return n / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch16_224", "vit_small_patch16_224"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8, 16, 32, 64, 128])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), "; one thread", flush=True)
    shown = pictures(224)
    for architecture in chosen.models:
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=0).eval().requires_grad_(False)
        x = shown[: chosen.batch]
        ready: dict[str, Forward] = {}
        cost: dict[str, Any] = {}
        for name in chosen.only:
            began = time.process_time()
            try:
                ready[name] = VARIANTS[name](model, x)
                ready[name](x)
                cost[name] = time.process_time() - began
            except Exception as error:
                print(f"{name}: not measured ({type(error).__name__}: {str(error).splitlines()[0][:200]})", flush=True)
        rates: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(chosen.rounds):
            for name, run in ready.items():
                rates[name].append(images_per_second(run, x))
        reference = all_vectors(ready["float32, torch's attention"], shown, chosen.batch)
        base = statistics.median(rates["float32, torch's attention"])
        print(f"\n{architecture}, batch {chosen.batch}, one thread")
        print(
            "| | images/s (lowest–highest) | × float32 | ready after | lowest cosine | same ten "
            "|\n|---|---|---|---|---|---|"
        )
        for name, run in ready.items():
            cosine, same = agreement(all_vectors(run, shown, chosen.batch), reference)
            middle = statistics.median(rates[name])
            print(
                f"| {name} | {middle:.1f} ({min(rates[name]):.1f}–{max(rates[name]):.1f}) | {middle / base:.2f} | "
                f"{cost[name]:.0f} s | {cosine:.6f} | {same:.1%} |",
                flush=True,
            )
        if chosen.batches:
            by_batch: dict[int, list[float]] = {n: [] for n in chosen.batches}
            for _ in range(chosen.rounds):
                for n in chosen.batches:
                    by_batch[n].append(images_per_second(partial(eager, model), shown[:n]))
            said = ", ".join(f"{n}: {statistics.median(values):.1f}" for n, values in by_batch.items())
            print(f"images/s by batch size, float32: {said}", flush=True)


def all_vectors(run: Forward, shown: Tensor, batch: int) -> NDArray[np.float32]:
    return np.concatenate([run(shown[k : k + batch]) for k in range(0, len(shown) - len(shown) % batch, batch)])


if __name__ == "__main__":
    main()
