"""A backbone name → a frozen encoder."""

from pellucid.embed.backbones.backbone import Backbone, load_backbone, slug
from pellucid.embed.backbones.compute_choice import Compute, Hardware, apply, choose, kept, seconds_of, threads_of
from pellucid.embed.backbones.timm_backbone import require_weights
from pellucid.embed.backbones.weight_loading import Loaded, fingerprint, fit, listed

__all__ = [
    "Backbone",
    "Compute",
    "Hardware",
    "Loaded",
    "apply",
    "choose",
    "fingerprint",
    "fit",
    "kept",
    "listed",
    "load_backbone",
    "require_weights",
    "seconds_of",
    "slug",
    "threads_of",
]
