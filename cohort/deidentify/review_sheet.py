"""The review sheet: every masked picture as it now is, and the counts a person must see before anything is handed
on."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.deidentify.dicom.dicom_files import dicom_sheet
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage, read_image
from pellucid.cohort.runs.atomic_files import atomic_path

_THUMBNAIL_PX = 640  # small letters must be legible
_PER_PAGE = 200
UNMASKED_SHOWN = 60  # of the pictures in which nothing was found: what was missed can only be seen there
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
figure{display:inline-block;margin:.4rem;vertical-align:top;max-width:32rem}img{max-width:100%;display:block}
figcaption{font-size:12px}table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;text-align:left}"""


def thumbnail(pixels: NDArray[np.uint8], boxes: Iterable[Box]) -> str:
    """A small JPEG with the masked boxes outlined, as base64 (its own fresh encoding: no metadata).

    Args:
        pixels: (H, W, 3) uint8 RGB.
        boxes: x, y, width, height in its pixels.
    """
    scale = min(1.0, _THUMBNAIL_PX / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels.copy()
    for x, y, w, h in boxes:
        corners = [(round(v[0] * scale), round(v[1] * scale)) for v in ((x, y), (x + w - 1, y + h - 1))]
        cv2.rectangle(small, corners[0], corners[1], (255, 190, 0), 1)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def shown_stems(records: Mapping[str, Mapping[str, Any]], show: str) -> set[str]:
    """Which images the sheet shows: all that were masked, and of the others all or a sample that is always the same.

    Args:
        records: what was done, by new name.
        show: `sample` or `all`.
    """
    done = {stem: bool(r["boxes"]) for stem, r in records.items() if r["status"] == "ok"}
    clear = sorted((s for s in done if not done[s]), key=lambda stem: hashlib.sha256(stem.encode()).digest())
    return {s for s in done if done[s]} | set(clear if show == "all" else clear[:UNMASKED_SHOWN])


def store_thumbnails(thumbs: Path, sha256: str, views: Iterable[NDArray[np.uint8]], boxes: Iterable[Box]) -> None:
    """Keep the small images of one cleaned file, one per line, under the hash of its content."""
    boxes = list(boxes)
    thumbs.mkdir(exist_ok=True)
    with atomic_path(_stored(thumbs, sha256)) as temporary:
        temporary.write_text("\n".join(thumbnail(view, boxes) for view in views), encoding="ascii")


def complete_thumbnails(out: Path, thumbs: Path, records: Mapping[str, Mapping[str, Any]], stems: set[str]) -> None:
    """Draw the small images that are missing for the sheet, and delete those of files that it does not show."""
    wanted = {records[stem]["sha256"]: records[stem] for stem in stems}
    for old in thumbs.glob("*.txt"):
        if old.stem not in wanted:
            old.unlink()
    for sha256, record in wanted.items():
        if _stored(thumbs, sha256).is_file():
            continue
        data = (out / "raw" / record["file"]).read_bytes()
        try:
            views = dicom_sheet(data) if record["file"].endswith(".dcm") else (read_image(data).pixels,)
        except UnreadableImage:
            continue  # the sheet then shows its name without an image
        store_thumbnails(thumbs, sha256, views, record["boxes"])


def _stored(thumbs: Path, sha256: str) -> Path:
    return thumbs / f"{sha256}.txt"


def write_review(
    folder: Path, records: Mapping[str, Mapping[str, Any]], facts: Iterable[str], thumbs: Path, show: str
) -> None:
    """Write `review.html` (and `review-2.html` … for many pictures).

    Args:
        folder: the output.
        records: what was done, by new name; see `pellucid.cohort.deidentify.command`.
        facts: sentences on how it was done.
        thumbs: folder of the small pictures.
        show: `sample` or `all`; see `shown_stems`.
    """
    done = {stem: r for stem, r in records.items() if r["status"] == "ok"}
    refused = {stem: r for stem, r in records.items() if r["status"] != "ok"}
    masked = [stem for stem, r in sorted(done.items()) if r["boxes"]]
    clear = sorted(shown_stems(records, show) - set(masked))
    seen = [stem for stem, r in sorted(done.items()) if r["faces"]]
    kinds = Counter(kind for r in done.values() for kind in r["removed"])
    body = [
        "<h1>Review sheet</h1>",
        f"<p>{len(done)} pictures were written, {len(masked)} of them with masked text; {len(refused)} files were not "
        "copied. <b>A person must look through this sheet before the folder is handed on</b>: text that was not found "
        "is not masked, and faces never are: "
        + (f"{len(seen)} pictures seem to show one</p>" if seen else "none was found, but only frontal ones are.</p>"),
        _table(("seems to show a face",), [(stem.rpartition("/")[2],) for stem in seen]) if seen else "",
        "<p>If a picture still shows what names somebody: find its original in the linkage file by the name that "
        "stands under the picture, move it out of the images of the study, and repeat the command; its copy then "
        "leaves this folder.</p>",
        "<p>An image of several frames is shown twice: the brightest and the darkest value of each pixel over all "
        "frames, so that text on any frame can be seen. DICOM files state that their pixels are clean "
        "(BurnedInAnnotation NO, code 113101) only after a person has looked through this sheet and has repeated the "
        "command with <code>--reviewed-by NAME</code>; files that the sheet does not show never state it. "
        + ("" if show == "all" else "<code>--show all</code> puts every image on the sheet.")
        + "</p>",
        "".join(f"<p>{escape(fact)}</p>" for fact in facts),
        "<h2>What the headers held, and hold no more</h2>",
        _table(("kind", "files"), kinds.most_common()) if kinds else "<p>Nothing.</p>",
        "<h2>Files that were not copied</h2>",
        _table(("name in the linkage file", "why"), [(stem, r["reason"]) for stem, r in sorted(refused.items())])
        if refused
        else "<p>None.</p>",
    ]
    shown = [*clear, *masked]
    pages = [shown[start : start + _PER_PAGE] for start in range(0, len(shown), _PER_PAGE)] or [[]]
    for old in folder.glob("review*.html"):
        old.unlink()
    for number, stems in enumerate(pages, start=1):
        content = list(body) if number == 1 else ["<h1>Review sheet, continued</h1>"]
        parts = (
            (
                f"Nothing was found: {len(clear)} of {len(done) - len(masked)}",
                [s for s in stems if not done[s]["boxes"]],
            ),
            (f"Masked: {len(masked)}", [s for s in stems if done[s]["boxes"]]),
        )
        for title, some in parts:
            if some or number == 1:
                content.append(f"<h2>{title}</h2>")
                content.extend(_figure(stem, done[stem], thumbs) for stem in some)
        if number < len(pages):
            content.append(f'<p><a href="{_page(number + 1)}">Next page</a></p>')
        with atomic_path(folder / _page(number)) as temporary:
            temporary.write_text(
                '<!doctype html><html lang="en"><meta charset="utf-8"><title>Review sheet</title>'
                f"<style>{_STYLE}</style>{''.join(content)}</html>\n",
                encoding="utf-8",
            )


def _page(number: int) -> str:
    return "review.html" if number == 1 else f"review-{number}.html"


def _figure(stem: str, record: Mapping[str, Any], thumbs: Path) -> str:
    path = _stored(thumbs, record["sha256"])
    encoded = path.read_text("ascii").split("\n") if path.is_file() else []
    picture = "".join(f'<img alt="" src="data:image/jpeg;base64,{one}">' for one in encoded)
    boxes = f"{len(record['boxes'])} masked" if record["boxes"] else "nothing masked"
    return f"<figure>{picture}<figcaption>{escape(stem.rpartition('/')[2])}<br>{boxes}</figcaption></figure>"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + f"</tr>{cells}</table>"
