"""A backbone name → a frozen encoder."""

from pellucid.embed.backbones.backbone import Backbone, has_bf16, load_backbone, slug
from pellucid.embed.backbones.timm_backbone import require_weights
from pellucid.embed.backbones.weight_loading import Loaded, fingerprint, fit, listed

__all__ = ["Backbone", "Loaded", "fingerprint", "fit", "has_bf16", "listed", "load_backbone", "require_weights", "slug"]
