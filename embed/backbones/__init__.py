"""Backbone name → frozen encoder."""

from pellucid.embed.backbones.backbone import Backbone, backbone_slug, load_backbone, pick_device
from pellucid.embed.backbones.compute_choice import Compute, Hardware, apply, choose, kept, seconds_of, threads_of
from pellucid.embed.backbones.timm_backbone import require_weights
from pellucid.embed.backbones.weight_loading import Loaded, fingerprint, listed, load_into

__all__ = [
    "Backbone",
    "Compute",
    "Hardware",
    "Loaded",
    "apply",
    "backbone_slug",
    "choose",
    "fingerprint",
    "kept",
    "listed",
    "load_backbone",
    "load_into",
    "pick_device",
    "require_weights",
    "seconds_of",
    "threads_of",
]
