"""Train and search on a GPU, if faiss-gpu is installed and a GPU is available."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pellucid.embed.index.untyped_faiss import faiss


def n_gpus() -> int:
    """Number of GPUs that this build of FAISS can use; 0 for faiss-cpu."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@contextlib.contextmanager
def clustering_on_gpu(ivf: Any) -> Iterator[None]:
    """Within the block, train the centroids of `ivf` on all GPUs; they are stored in its quantiser as usual."""
    if not n_gpus():
        yield
        return
    helper = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    ivf.clustering_index = helper
    try:
        yield
    finally:
        ivf.clustering_index = None


def on_gpu(index: Any, bytes_needed: int) -> tuple[Any, Any] | None:
    """Copy `index` to the first GPU; returns the copy and the resources that must outlive it, or None if it does not
    fit.

    Filtered searches stay on the CPU: selectors work on the CPU's inverted lists only.
    """
    if not n_gpus():
        return None
    resources = faiss.StandardGpuResources()
    import torch

    free, _ = torch.cuda.mem_get_info(0)
    if bytes_needed > 0.7 * free:
        return None
    options = faiss.GpuClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    try:
        return faiss.index_cpu_to_gpu(resources, 0, index, options), resources
    except RuntimeError:  # the GPU does not support this kind of code: search on the CPU
        return None
