"""Export of a trained backbone: weights, description, model card, ONNX; and what a withdrawal changes in it."""

from pellucid.pretrain.export.catalogue import newest_backbone
from pellucid.pretrain.export.model_card import training_sentences
from pellucid.pretrain.export.onnx_export import can_export, export_onnx
from pellucid.pretrain.export.withdrawal import forget_in_training, forget_in_unfinished, trained_on

__all__ = [
    "can_export",
    "export_onnx",
    "forget_in_training",
    "forget_in_unfinished",
    "newest_backbone",
    "trained_on",
    "training_sentences",
]
