"""Monitoring of a training: logs, collapse detection, kNN read-out, curves and the training page."""

from pellucid.pretrain.monitor.jsonl_logs import PAGE, WATCH_LINES, read_lines
from pellucid.pretrain.monitor.svg_curves import (
    ACQUISITION,
    CLINICAL,
    CSS_VARIABLES,
    FAINT,
    INK,
    PALETTE,
    SCRIPT,
    SOFT,
    STYLE,
)
from pellucid.pretrain.monitor.training_curves import training_curves, watch_curves, watch_sentences

__all__ = [
    "ACQUISITION",
    "CLINICAL",
    "CSS_VARIABLES",
    "FAINT",
    "INK",
    "PAGE",
    "PALETTE",
    "SCRIPT",
    "SOFT",
    "STYLE",
    "WATCH_LINES",
    "read_lines",
    "training_curves",
    "watch_curves",
    "watch_sentences",
]
