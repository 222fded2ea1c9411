"""The data set of a plain data loader, with which extraction and pretraining are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset


class Photographs(Dataset[Any]):
    """Files, opened by Pillow in a worker, and transformed there by what the library in question provides."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))
