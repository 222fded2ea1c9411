"""The same index on a GPU, where faiss-gpu and a GPU are there: centroids are learned there and searches run there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pellucid.embed.index.untyped_faiss import faiss


def n_gpus() -> int:
    """GPUs that this build of FAISS can use; 0 for faiss-cpu."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@contextlib.contextmanager
def clustering_on_gpu(ivf: Any) -> Iterator[None]:
    """Within the block the centroids of `ivf` are learned on all GPUs; they end in its own quantiser as ever."""
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
    """`index` copied to the first GPU and the resources that must outlive it, or None where it does not fit.

    Filtered searches are not for it: selectors are for the CPU's inverted lists.
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
    except RuntimeError:  # a kind of code that the GPU does not know: the CPU searches it
        return None
