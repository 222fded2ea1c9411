"""Burned-in text on BUS-BRA: what the form-based detector finds of what OCR reads, by scanner, and what each costs.

    PELLUCID_DATA=FOLDER python benchmarks/burned_in_text.py          # needs the extra `privacy`; about two CPU minutes

The table of docs/privacy.md.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import pandas as pd

from pellucid.cohort.identifiers.ocr import TextReader
from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import shrink

PER_SCANNER = 30
WORD = re.compile(r"[^\W\d_]{3,}|\d{3,}")


def main() -> None:
    cv2.setNumThreads(1)
    data = Path(os.environ["PELLUCID_DATA"])
    table = pd.read_csv(data / "busbra" / "manifest.csv")
    reader, rows = TextReader(), []
    for scanner, images in table.groupby("device_model"):
        for name in images.sample(min(PER_SCANNER, len(images)), random_state=0)["image"]:
            pixels = np.ascontiguousarray(cv2.imread(str(data / "busbra" / name))[:, :, ::-1])
            start = time.process_time()
            read = reader.read_text(pixels)
            middle = time.process_time()
            lines = text_lines(shrink(pixels, 480))
            end = time.process_time()
            word = any(WORD.search(box.text) for box in read)
            rows.append((scanner, bool(read), word, bool(lines), middle - start, end - middle))
    found = pd.DataFrame(rows, columns=["scanner", "read", "word", "lines", "ocr_s", "lines_s"])
    for scanner, part in found.groupby("scanner"):
        both, confirmed = int((part["word"] & part["lines"]).sum()), int((part["read"] & part["lines"]).sum())
        print(
            f"{scanner}: {len(part)} images; OCR reads something in {part['read'].sum()}, a word in {part['word'].sum()}; "
            f"of these found by form {both} ({both / max(part['word'].sum(), 1):.2f}); "
            f"OCR confirms {confirmed} of {part['lines'].sum()}"
        )
    medians = found[["ocr_s", "lines_s"]].median() * 1000
    print(f"CPU ms per image: OCR {medians['ocr_s']:.0f}, by form {medians['lines_s']:.2f}")
    photographs = sorted((data / "pad_ufes_subset" / "images").glob("*.jpg"))[::7]
    said = sum(bool(text_lines(shrink(cv2.imread(str(path))[:, :, ::-1].copy(), 480))) for path in photographs)
    print(f"photographs of skin said to hold text: {said} of {len(photographs)}")


if __name__ == "__main__":
    main()
