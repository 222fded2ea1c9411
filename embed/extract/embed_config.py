"""The `embed:` section of study.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.embed.backbones.backbone import Backbone
from pellucid.embed.backbones.compute_choice import Precision
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.index import IndexConfig

# Images at once. On a CPU, the activations of a batch should fit into its caches (benchmarks/LOG.md, 2026-11-30).
BATCH_FLOAT32, BATCH_HALF, BATCH_GPU = 4, 16, 256


class EmbedConfig(ReadoutConfig):
    """The `embed:` section of study.yaml: the readout of a backbone (`ReadoutConfig`), and how vectors are computed."""

    backbones: list[
        str
    ] = []  # in addition to those that `run` always embeds: pixels, random weights, the pretrained run
    source: Literal["prepared", "originals"] = "prepared"
    batch_size: int = Field(0, ge=0)  # 0: chosen for the device
    device: str = "auto"
    precision: Precision = "auto"  # auto: the fastest on this machine; or float32, bfloat16, float16 (GPU only)
    workers: int = Field(0, ge=0)  # single-threaded processes on a CPU; 0: one per core
    patients: Literal["none", "mean", "medoid", "weighted"] = "none"  # also one vector per patient
    text: Literal["keep", "mask"] = "keep"  # mask: paint over burned-in text of the originals, for the audit
    index: IndexConfig = IndexConfig()

    def readout(self) -> ReadoutConfig:
        """The part that belongs to the backbone."""
        return ReadoutConfig(**{name: getattr(self, name) for name in ReadoutConfig.model_fields})

    def batch_size_for(self, encoder: Backbone) -> int:
        """Images per batch: as configured, or chosen for the device."""
        if self.batch_size:
            return self.batch_size
        if encoder.is_on_gpu:
            return BATCH_GPU
        return BATCH_FLOAT32 if encoder.computing.precision == "float32" else BATCH_HALF
