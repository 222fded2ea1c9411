"""Burned-in text on BUS-BRA: the share of OCR findings that the shape-based detector finds, by scanner, and the cost of
both.

    PELLUCID_DATA=FOLDER python -m benchmarks.burned_in_text          # needs the extra `privacy`; about two CPU minutes

The table of docs/privacy.md.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pellucid.cohort.identifiers.ocr import TextReader
from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import shrink

PER_SCANNER = 30
WORD = re.compile(r"[^\W\d_]{3,}|\d{3,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PELLUCID_DATA"), help="default: $PELLUCID_DATA")
    data: Path | None = parser.parse_args().data
    if data is None:
        parser.error("set PELLUCID_DATA or --data to the folder that holds busbra/ and pad_ufes_subset/")
    cv2.setNumThreads(1)
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
            f"{scanner}: {len(part)} images; text by OCR in {part['read'].sum()}, a word in {part['word'].sum()}; "
            f"of these found by shape {both} ({both / max(part['word'].sum(), 1):.2f}); "
            f"OCR confirms {confirmed} of {part['lines'].sum()}"
        )
    medians = found[["ocr_s", "lines_s"]].median() * 1000
    print(f"CPU ms per image: OCR {medians['ocr_s']:.0f}, by shape {medians['lines_s']:.2f}")
    photographs = sorted((data / "pad_ufes_subset" / "images").glob("*.jpg"))[::7]
    reported = sum(bool(text_lines(shrink(cv2.imread(str(path))[:, :, ::-1].copy(), 480))) for path in photographs)
    print(f"photographs of skin with reported text: {reported} of {len(photographs)}")


if __name__ == "__main__":
    main()
