"""Identifiers planted in headers, names, hidden corners and pixels: none may be found in what comes out."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.identifiers import ocr
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study

HEIGHT, WIDTH = 224, 288
_SYLLABLES = ["bra", "dov", "kel", "mir", "nus", "pol", "quen", "rith", "sab", "tor", "vex", "wim", "zan", "lof", "gur"]


@dataclass(frozen=True)
class Person:
    """A patient who does not exist."""

    surname: str
    given: str
    number: str
    birth: str  # yyyymmdd
    study: str  # yyyymmdd
    doctor: str
    street: str

    @property
    def words(self) -> list[str]:
        day = self.birth
        forms = [day, f"{day[:4]}-{day[4:6]}-{day[6:]}", f"{day[6:]}.{day[4:6]}.{day[:4]}"]
        return [self.surname, self.given, self.number, self.doctor, self.street, self.study, *forms]


def people(count: int) -> list[Person]:
    rng = random.Random(11)

    def word(syllables: int) -> str:
        return "".join(rng.choice(_SYLLABLES) for _ in range(syllables)).capitalize()

    return [
        Person(
            surname=word(3) + ("ü" if i % 5 == 0 else "o"),
            given=word(2) + "ia",
            number=f"MRN{7000000 + 137 * i}",
            birth=f"{rng.randint(1925, 1999)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}",
            study=f"{rng.randint(2005, 2020)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}",
            doctor=word(3) + "ek",
            street=word(3) + "gasse",
        )
        for i in range(count)
    ]


def speckle(seed: int) -> np.ndarray:
    """(H, W) uint8: smooth tissue under speckle, dark at the edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    tissue = 40 + 50 * np.exp(-((y - HEIGHT / 2) ** 2 + (x - WIDTH / 2) ** 2) / 9000)
    return np.clip(tissue * rng.rayleigh(0.8, (HEIGHT, WIDTH)), 0, 255).astype(np.uint8)


def written_on(gray: np.ndarray, person: Person, seed: int) -> np.ndarray:
    """The picture with the patient's name and number drawn on it, bright on dark, or dark on a bright band."""
    image = Image.fromarray(gray)
    draw = ImageDraw.Draw(image)
    top, dark_on_bright = 8 + 20 * (seed % 3), seed % 4 == 3
    if dark_on_bright:
        draw.rectangle((0, top - 4, WIDTH, top + 46), fill=225)
    font = ImageFont.load_default(size=19)
    ink = 15 if dark_on_bright else 245
    draw.text((10, top), f"{person.surname} {person.given}".replace("ü", "u"), font=font, fill=ink)
    draw.text(
        (10, top + 22),
        f"{person.number} {person.birth[6:]}.{person.birth[4:6]}.{person.birth[:4]}",
        font=font,
        fill=ink,
    )
    return np.asarray(image)


def dicom_bytes(person: Person, gray: np.ndarray, variant: int) -> bytes:
    """A DICOM file with the patient's identity in every corner that one knows of."""
    full = f"{person.surname}^{person.given}"
    ds = Dataset()
    ds.SpecificCharacterSet = ["ISO_IR 100", "ISO_IR 192"][variant % 2]
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.6.1", "US"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{person.number[3:]}.1", f"1.2.3.{person.number[3:]}.2"
    ds.SOPInstanceUID = f"1.2.3.{person.number[3:]}.3.{variant}"
    ds.ImageType, ds.Manufacturer, ds.ManufacturerModelName = ["ORIGINAL", "PRIMARY"], "ACME", "Echo 5"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = full, person.number, person.birth
    ds.PatientSex, ds.PatientAge, ds.PatientSize = "F", ["061Y", "094Y"][variant % 2], 1.68
    ds.OtherPatientIDs, ds.PatientAddress = person.number + "B", f"{person.street} 4"
    ds.PatientMotherBirthName, ds.PatientComments = full, f"{person.given} {person.surname} called"
    ds.ReferringPhysicianName, ds.OperatorsName = f"{person.doctor}^Dr", f"{person.doctor}^Op"
    ds.InstitutionName, ds.InstitutionAddress = f"Klinik {person.street}", person.street
    ds.StationName, ds.DeviceSerialNumber = f"{person.doctor}US1", f"SN{person.number[3:]}"
    ds.AccessionNumber, ds.StudyID = "A" + person.number[3:], "S" + person.number[3:]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = person.study
    ds.StudyTime, ds.AcquisitionDateTime = "101112", person.study + "101112"
    ds.StudyDescription = f"Mamma {person.surname} {person.birth}"
    ds.SeriesDescription = ds.ProtocolName = f"{person.given} {person.surname}"
    ds.ImageComments, ds.AdditionalPatientHistory = f"{full} {person.study}", f"seen by {person.doctor}"
    ds.BodyPartExamined = person.surname.upper()[:16]  # typed into the wrong field
    ds.ProcessingFunction = f"{person.given}"
    ds.BurnedInAnnotation = "YES"
    item, nested = Dataset(), Dataset()
    nested.PatientName, nested.PatientID, nested.TextValue = full, person.number, full
    item.ModifiedAttributesSequence, item.ReasonForTheAttributeModification = Sequence([nested]), "COERCE"
    item.ModifyingSystem = person.doctor
    ds.OriginalAttributesSequence = Sequence([item])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-1", "99HOSP", full
    public = Dataset()
    public.CodeValue, public.CodingSchemeDesignator, public.CodeMeaning = "76752008", "SCT", "Breast"
    public.add_new(0x00091001, "LO", full)
    ds.ViewCodeSequence, ds.AnatomicRegionSequence = Sequence([code]), Sequence([public])
    reference = Dataset()
    reference.ReferencedSOPClassUID = ds.SOPClassUID
    reference.ReferencedSOPInstanceUID = f"1.2.3.{person.number[3:]}.3.99"
    reference.PurposeOfReferenceCodeSequence = Sequence([code])
    ds.SourceImageSequence = Sequence([reference])
    block = ds.private_block(0x0009, f"{person.surname} PRIVATE"[:60], create=True)
    block.add_new(0x01, "LO", full)
    block.add_new(0x02, "UN", full.encode("latin-1"))
    block.add_new(0x03, "SQ", Sequence([nested]))
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8)
    ds.add_new(0x60001500, "LO", full)
    ds.add_new(0x60003000, "OW", full.encode("latin-1").ljust(60, b"\0"))
    ds.add_new(0x50003000, "OW", full.encode("latin-1").ljust(60, b"\0"))
    ds.add_new(0xFFFCFFFC, "OB", full.encode("latin-1").ljust(60, b"\0"))
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = HEIGHT, WIDTH, 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.file_meta = FileMetaDataset()
    syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, ExplicitVRBigEndian][variant % 4]
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
    ds.file_meta.SourceApplicationEntityTitle = person.doctor[:16]
    ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
    ds.file_meta.PrivateInformation = full.encode("latin-1").ljust(60, b"\0")
    if syntax == JPEGBaseline8Bit:
        stream = jpeg_bytes(person, gray, hidden=True)
        ds.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
        ds["PixelData"].is_undefined_length = True
        ds["PixelData"].VR = "OB"
    elif variant % 8 == 1:  # 12 bits in 16, and a name in the bits that are left over
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelData = (gray.astype("<u2") * 16).tobytes() + full.encode("latin-1").ljust(60, b"\0")
        ds["PixelData"].VR = "OW"
    else:
        ds.PixelData = gray.tobytes() + full.encode("latin-1").ljust(60, b"\0")
        ds["PixelData"].VR = "OB"
    ds.preamble = f"II {full}".encode("latin-1").ljust(128, b"\0")[:128]
    out = io.BytesIO()
    pydicom.dcmwrite(
        out, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True
    )
    return out.getvalue()


def jpeg_bytes(person: Person, gray: np.ndarray, *, hidden: bool = True, orientation: int = 1) -> bytes:
    """A JPEG with the identity in EXIF, XMP, IPTC, a comment, a thumbnail and behind the end."""
    full = f"{person.surname} {person.given}"
    image = Image.fromarray(gray)
    exif = Image.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.ImageDescription] = full, f"{full} {person.birth}"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "ACME"
    exif.get_ifd(ExifTags.IFD.Exif)[0xA430] = person.doctor
    exif.get_ifd(ExifTags.IFD.Exif)[0x927C] = person.number.encode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, exif=exif, comment=full.encode(), xmp=f"<x:xmpmeta>{full}</x:xmpmeta>".encode())
    data = out.getvalue()
    if hidden:
        iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + full.encode("utf-8")
        segment = struct.pack(">BBH", 0xFF, 0xED, len(iptc) + 2) + iptc
        data = data[:2] + segment + data[2:] + full.encode("utf-16-le") + person.number.encode()
    return data


def png_bytes(person: Person, gray: np.ndarray) -> bytes:
    """A PNG with the identity in every kind of text chunk, in EXIF, behind the scanlines and behind the end."""
    full = f"{person.surname} {person.given}"
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", full.encode("latin-1").decode("latin-1"))
    info.add_text("Comment", f"{full} {person.number}", zip=True)
    info.add_itxt("Title", full, zip=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = person.surname
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "PNG", pnginfo=info, exif=exif)
    data = out.getvalue()
    raw = b"".join(b"\0" + row.tobytes() for row in gray) + full.encode()  # a name behind the last scanline
    stream = zlib.compress(raw)
    start = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(stream)) + b"IDAT" + stream + struct.pack(">I", zlib.crc32(b"IDAT" + stream))
    return data[:start] + chunk + b"\0\0\0\0IEND\xaeB`\x82" + full.encode("utf-8")


def plant(folder: Path, count: int, drawn: int) -> tuple[list[Person], dict[str, np.ndarray]]:
    """`count` DICOM and `count` JPEG or PNG files, `drawn` of each with text in the pixels, and their table.

    Returns:
        The patients, and the upright gray pixels of each file as an independent decoder gives them.
    """
    everyone, rows, pixels = people(count), [], {}
    for i, person in enumerate(everyone):
        gray = speckle(i)
        gray = written_on(gray, person, i) if i < drawn else gray
        here = folder / "images" / f"{person.surname}_{person.given}"
        here.mkdir(parents=True, exist_ok=True)
        kinds = {
            f"{person.number}_{person.study}.dcm": dicom_bytes(person, gray, i),
            f"{person.surname}-{person.birth}." + ("jpg" if i % 2 else "png"): (
                jpeg_bytes(person, gray, orientation=[1, 6][i // 2 % 2]) if i % 2 else png_bytes(person, gray)
            ),
        }
        for name, data in kinds.items():
            (here / name).write_bytes(data)
            image_id = f"{here.name}/{name}"
            rows.append(
                f"{image_id},{person.number},{person.surname} {person.given},{person.birth},{person.study},"
                f"{['yes', 'no'][i % 2]},{[51, 93][i % 2]}"
            )
            if name.endswith("dcm"):
                pixels[image_id] = pydicom.dcmread(io.BytesIO(data)).pixel_array
            else:
                pixels[image_id] = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    (folder / "clinical.csv").write_text(
        "file,mrn,name,born,visit,cancer,age\n" + "\n".join(rows) + "\n", encoding="utf-8"
    )
    (folder / "study.yaml").write_text(
        "images: images\ntable: clinical.csv\nimage: file\npatient: mrn\noutcome: {cancer: binary}\n"
        "clinical: {age: continuous}\nacquisition: {visit: categorical, header_manufacturer: categorical}\n"
    )
    return everyone, pixels


def search(data: bytes, words: list[str]) -> list[str]:
    """Words found in bytes in any of the encodings that files use, whatever their case."""
    lower = data.lower()
    found = []
    for word in words:
        small = {word.lower().encode(encoding) for encoding in ("latin-1", "utf-8")}
        small.add(word.lower().encode("utf-16-le").rstrip(b"\0"))  # found in the other byte order as well
        large = set() if word.isascii() else {word.upper().encode(e) for e in ("latin-1", "utf-8", "utf-16-le")}
        if any(pattern in lower for pattern in small) or any(pattern in data for pattern in large):
            found.append(word)
    return found


def everything_in(path: Path) -> bytes:
    """The file's bytes, what its PNG chunks hold when inflated, and every DICOM value as text."""
    data = path.read_bytes()
    more = [data]
    if path.suffix == ".png":
        at = 8
        while at + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            body = data[at + 8 : at + 8 + length]
            for start in range(min(len(body), 90)):
                try:
                    more.append(zlib.decompressobj().decompress(body[start:]))
                except zlib.error:
                    continue
            at += 12 + length
            if kind == b"IEND":
                assert at == len(data), "something follows the end"
    if path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        assert data[:128] == b"\0" * 128
        for element in [*dataset.iterall(), *dataset.file_meta]:
            assert not element.tag.is_private
            more.append(f"{element.tag} {element.value}".encode() if element.keyword != "PixelData" else element.value)
    return b"\n".join(more)


def check_output(folder: Path, out: Path, everyone: list[Person], pixels: dict[str, np.ndarray]) -> None:
    """No word of anybody in any file or name, and no pixel changed outside the boxes."""
    files = sorted(p for p in out.rglob("*") if p.is_file())
    names = [
        word
        for person in everyone
        for word in (person.surname, person.given, person.number, person.doctor, person.street)
    ]
    for path in files:
        assert search(path.relative_to(out).as_posix().encode(), names) == [], path
        # pixel values are random bytes: there only long words are meaningful, and all of ours are
        assert search(everything_in(path), names) == [], path
    links = json.loads((folder.parent / "linkage.json").read_text())
    records = {r["stem"]: r for r in map(json.loads, (out / ".deidentify" / "records.jsonl").read_text().splitlines())}
    owners: list[tuple[dict[str, Any], Person]] = []
    of_patient = {person.number: person for person in everyone}
    for line in (folder / "clinical.csv").read_text().splitlines()[1:]:
        image_id, number = line.split(",")[:2]
        record = records[links["files"][image_id]]
        person = of_patient[number]
        owners.append((record, person))
        path = out / "raw" / record["file"]
        own_dates = [w for w in person.words if re.fullmatch(r"[\d.-]{8,10}", w)]
        assert search(everything_in(path), own_dates) == [], path
        now = (
            pydicom.dcmread(path).pixel_array
            if path.suffix == ".dcm"
            else np.asarray(ImageOps.exif_transpose(Image.open(path)))
        )
        outside = np.ones(now.shape[:2], bool)
        for x, y, w, h in record["boxes"]:
            outside[y : y + h, x : x + w] = False
        np.testing.assert_array_equal(now[outside], pixels[image_id][outside])
    of_image = {record["file"]: person for record, person in owners}
    for row in (out / "clinical.csv").read_text().splitlines()[1:]:
        assert search(row.encode(), of_image[row.split(",")[0]].words) == [], (
            row
        )  # another's date may come out by chance
    for name in ("study.yaml", "review.html"):
        assert search((out / name).read_bytes(), [w for p in everyone for w in p.words]) == [], name


def read_again(path: Path) -> str:
    """All text that OCR reads in the negative of a picture, however unsure it is: another look than the one that
    masked."""
    values = (
        pydicom.dcmread(path).pixel_array
        if path.suffix == ".dcm"
        else np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("L"))
    )
    negative = 255 - (values / max(values.max(), 1) * 255).astype(np.uint8)
    found = ocr.TextReader(min_confidence=0.2).read_text(np.repeat(negative[:, :, None], 3, axis=2))
    return " ".join(box.text for box in found)


def check_pixels(out: Path, everyone: list[Person], stems: list[str]) -> None:
    paths = [next((out / "raw").glob(f"{stem}.*")) for stem in stems]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(read_again, paths))
    for stem, text in zip(stems, texts, strict=True):
        seen = re.sub(r"[^a-z0-9]", "", text.lower())
        for person in everyone:
            for word in (person.surname.replace("ü", "u"), person.given, person.number, person.birth[:4]):
                assert word.lower() not in seen, (stem, word, seen)


@pytest.mark.long
def test_headers_names_and_hidden_corners_hold_nobody_any_more(tmp_path: Path) -> None:
    folder, out = tmp_path / "study", tmp_path / "out"
    everyone, pixels = plant(folder, 20, drawn=0)
    planted = [p for p in (folder / "images").rglob("*") if p.is_file()]
    words = [w for person in everyone for w in person.words]
    assert all(search(path.read_bytes(), words) for path in planted)  # the search does find what was planted
    done = deidentify_study(
        load_study(folder, ["scan.workers=1"]), out, tmp_path / "linkage.json", text="lines", progress=False
    )
    assert (done.written, done.refused) == (40, 0)
    check_output(folder, out, everyone, pixels)
    # what comes out is a study that can be scanned as it is
    run = scan(load_study(out, [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"]), progress=False)
    manifest = pd.read_parquet(run.path / "manifest.parquet")
    assert (manifest["status"] == "ok").all()
    assert manifest["patient"].nunique() == 20
    assert set(manifest["file_manufacturer"].dropna()) == {"ACME"}  # carried over from the headers, which are stripped
    assert manifest["age"].max() == 90


@pytest.mark.long
@pytest.mark.skipif(not ocr.available(), reason="needs rapidocr")
def test_burned_in_identifiers_are_masked_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder, out = tmp_path / "study", tmp_path / "out"
    everyone, pixels = plant(folder, 2, drawn=1)
    first = everyone[0]
    original = next((folder / "images").rglob(f"{first.surname}-*.png"))
    assert first.number.lower() in re.sub(r"[^a-z0-9]", "", read_again(original).lower()), (
        "this reading does find names"
    )
    done = deidentify_study(
        load_study(folder, ["scan.workers=1"]), out, tmp_path / "linkage.json", text="ocr", progress=False
    )
    assert (done.written, done.masked) == (4, 2)
    check_output(folder, out, everyone, pixels)
    stems = [str(stem) for stem in json.loads((tmp_path / "linkage.json").read_text())["files"].values()]
    check_pixels(out, everyone, stems[:2])  # those that were drawn on


@pytest.mark.slow
@pytest.mark.skipif(not ocr.available(), reason="needs rapidocr")
def test_every_coding_with_every_place_and_colour_of_text(tmp_path: Path) -> None:
    """24 patients are each transfer syntax and depth with each place of the text, bright and dark."""
    folder, out = tmp_path / "study", tmp_path / "out"
    everyone, pixels = plant(folder, 36, drawn=36)
    done = deidentify_study(load_study(folder), out, tmp_path / "linkage.json", text="ocr", progress=False)
    assert (done.written, done.masked, done.refused) == (72, 72, 0)
    check_output(folder, out, everyone, pixels)
    check_pixels(out, everyone, list(json.loads((tmp_path / "linkage.json").read_text())["files"].values()))
