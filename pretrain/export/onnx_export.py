"""Export a backbone as one ONNX file, for programs without PyTorch: normalised pixels in, one vector per image out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import warnings
from pathlib import Path

import torch

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path
from pellucid.embed.backbones import Compute, load_backbone


def export_onnx(run: Path, path: Path) -> Path:
    """Write the backbone of a finished pretrain run as ONNX, for any number of images at once.

    Input `pixels`: (n, 3, size, size) float32. Output `embedding`: (n, d) float32. The metadata entry `pellucid` has
    the content of `preprocess.json` (size, mean, standard deviation).

    Args:
        run: folder with `backbone.safetensors` and `preprocess.json`.
        path: the file to write; not inside a finished run.

    Raises:
        UserError: a package is missing, the run has no backbone, or the file cannot be written.
    """
    path = can_export(path)
    backbone = load_backbone(f"run:{run}", "cpu", compute=Compute("float32"))
    model = backbone.reader.eval()  # normalised pixels → vectors, as `pellucid embed` computes them
    pixels = torch.zeros(2, 3, backbone.size_px, backbone.size_px)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # PyTorch warns about its own code
        program = torch.onnx.export(
            model,
            (pixels,),
            dynamo=True,
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None
    spec = json.loads((run / "preprocess.json").read_text(encoding="utf-8"))
    program.model.metadata_props["pellucid"] = json.dumps(spec, sort_keys=True)
    try:
        with atomic_path(path) as temporary:
            program.save(temporary, external_data=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}); free disk space, or choose another path") from None
    return path


def can_export(path: Path) -> Path:
    """The path with `~` expanded, if an ONNX file can be written there; call it before a long training.

    Raises:
        UserError: a package is missing, or the path is not valid.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}: install them with `pip install 'pellucid[onnx]'`")
    path = path.expanduser()
    if any((folder / "SHA256SUMS").is_file() for folder in path.resolve().parents):
        raise UserError(f"{path}: is inside a finished run, which must not be changed; choose another path")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; create it, or choose another path")
    return path
