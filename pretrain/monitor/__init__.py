"""What a training shows and records while it runs."""

from pellucid.pretrain.monitor.jsonl_logs import PAGE, WATCH_LINES, read_lines
from pellucid.pretrain.monitor.svg_curves import SCRIPT, STYLE
from pellucid.pretrain.monitor.training_curves import training_curves, watch_curves, watch_sentences

__all__ = ["PAGE", "SCRIPT", "STYLE", "WATCH_LINES", "read_lines", "training_curves", "watch_curves", "watch_sentences"]
