"""What the tests of de-identification share: a linkage file, and a study with all kinds of identifiers in it."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageFont, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.study import Study, load_study

HEIGHT, WIDTH, FRAMES = 96, 160, 5
_TEXT = frozenset({".csv", ".yaml", ".html", ".json", ".jsonl"})
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "cp1251", "koi8-r", "iso8859-5", "gb18030", "shift_jis")


@dataclass(frozen=True)
class Person:
    """A patient who does not exist, and how the name is written."""

    surname: str
    given: str
    number: str
    birth: str  # yyyymmdd
    spellings: tuple[str, ...] = ()
    charset: str = "ISO_IR 192"

    @property
    def full(self) -> str:
        return f"{self.surname}^{self.given}"

    @property
    def long(self) -> list[str]:
        """What may be searched for anywhere."""
        year, month, day = self.birth[:4], self.birth[4:6], self.birth[6:]
        days = [self.birth, f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{int(day)}.{int(month)}.{year}"]
        names = [n for n in (self.surname, self.given, *self.spellings) if len(n) > 3 or not n.isascii()]
        return [*names, self.number, *days]

    @property
    def short(self) -> list[str]:
        """Names that stand in any bytes by chance: searched for as words in text."""
        return [n for n in (self.surname, self.given) if len(n) <= 3 and n.isascii()]


PEOPLE = (
    Person("Иванов", "Пётр", "MRN5510041", "19480814", ("Ivanov", "Pyotr")),
    Person("王", "小明", "MRN5510042", "19630203", ("王小明",)),
    Person("Ng", "Bo", "MRN5510043", "19711130"),
    Person("Müllerová", "Jörg", "MRN5510044", "19550607", ("Muellerova", "Mullerova", "Joerg")),
    Person("VanDerBergh", "Jantje", "MRN5510045", "19821221", ("vanderberghjantje", "JANTJEVANDERBERGH")),
    Person("Casey", "Testa", "MRN5510046", "19390101", ("testacasey",)),
)
STAFF = ("Dr. Quenrith Sabine", "Zanlofek", "Dr. Quenrith Sabine", "Пеллетье", "Zanlofek", "Dr. Quenrith Sabine")
STAFF_WORDS = ("Quenrith", "Zanlofek", "Пеллетье")


def tissue(seed: int) -> np.ndarray:
    """(H, W) uint8 without hard edges."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (60 + 50 * np.sin(x / (17 + seed)) * np.cos(y / (13 + seed))).astype(np.uint8)


def profile_with(name: str) -> bytes:
    """A colour profile with a name in its description."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = data.find(b"sRGB", 128)
    data[at : at + 4] = name.encode("ascii", "replace")[:4].ljust(4)
    return bytes(data)


def palette_cine(person: Person) -> bytes:
    """A palette cine of five frames with text on the third, and a name in unused entries of the palette."""
    frames = np.repeat(tissue(3)[None], FRAMES, axis=0) // 2
    picture = Image.fromarray(frames[2])
    text = person.full.replace("^", " ") if person.full.isascii() else "IVANOV PETR"
    ImageDraw.Draw(picture).text((8, 10), f"{text} 1948", font=ImageFont.load_default(size=17), fill=200)
    frames[2] = np.asarray(picture)
    ds = Dataset()
    ds.SpecificCharacterSet, ds.SOPClassUID, ds.Modality = person.charset, "1.2.840.10008.5.1.4.1.1.3.1", "US"
    ds.SOPInstanceUID = ds.StudyInstanceUID = ds.SeriesInstanceUID = f"1.2.3.{person.number[3:]}"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = person.full, person.number, person.birth, "F"
    ds.OperatorsName, ds.ReferringPhysicianName = f"{STAFF_WORDS[0]}^Op", f"{STAFF_WORDS[2]}^Ref"
    ds.Manufacturer, ds.ManufacturerModelName = "GE", f"Vivid {person.given} {person.surname}"
    ds.SoftwareVersions = "syngo 2" if person is PEOPLE[-1] else f"syngo {person.surname} 2"
    ds.StackID = f"{person.surname}{person.given}"[:16]
    ds.SeriesDescription, ds.StudyDescription = person.full, f"{person.surname} {person.birth}"
    ds.BurnedInAnnotation = "NO"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "76752008", "SCT", f"Breast {person.surname}"
    ds.AnatomicRegionSequence = Sequence([code])
    block = ds.private_block(0x0011, "ACME", create=True)
    block.add_new(0x01, "LO", person.full)
    block.add_new(0x02, "UN", person.full.encode("utf-8"))
    ds.add_new(0x00180060, "OB", person.full.encode("utf-8").ljust(40))  # KVP, with a wrong value representation
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.SamplesPerPixel, ds.PixelRepresentation = HEIGHT, WIDTH, FRAMES, 1, 0
    ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored, ds.HighBit = "PALETTE COLOR", 8, 8, 7
    unused = sorted(set(range(256)) - set(np.unique(frames).tolist()))
    hidden = (person.long[0] + person.number).encode("utf-16-le")
    for shade, colour in enumerate(("Red", "Green", "Blue")):
        table = np.minimum(np.arange(256) * (257 - 20 * shade), 65535).astype("<u2")
        room = np.frombuffer(hidden + b"\0" * (len(hidden) % 2), "<u2")
        run = max((r for r in np.split(unused, np.flatnonzero(np.diff(unused) != 1) + 1)), key=len)
        table[run[: len(room)]] = room[: len(run)]
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    ds.ICCProfile = profile_with(person.surname)
    ds.PixelData = frames.tobytes() + person.full.encode("utf-8").ljust(64)
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPInstanceUID, ds.file_meta.MediaStorageSOPClassUID = ds.SOPInstanceUID, ds.SOPClassUID
    ds.preamble = person.full.encode("utf-8").ljust(128, b"\0")[:128]
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, implicit_vr=False, little_endian=True, force_encoding=True)
    return out.getvalue()


def exif_of(person: Person) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.ImageDescription] = person.full, f"{person.full} {person.birth}"
    exif.get_ifd(ExifTags.IFD.Exif)[0x927C] = person.full.encode("utf-8")
    return exif


def jpeg(person: Person, seed: int) -> bytes:
    """EXIF, XMP, comment, ICC, a tail, and two tables that nothing uses."""
    out = io.BytesIO()
    xmp = f"<x:xmpmeta>{person.full}</x:xmpmeta>".encode()
    Image.fromarray(tissue(seed)).convert("RGB").save(
        out,
        "JPEG",
        exif=exif_of(person),
        comment=person.full.encode(),
        xmp=xmp,
        icc_profile=profile_with(person.surname),
    )
    data = out.getvalue()
    name = person.full.encode("utf-8")[:40]
    quantisation = b"\x03" + (name + person.number.encode()).ljust(64, b"\1")
    huffman = b"\x13" + bytes([0, 0, 0, 0, 0, 0, 0, len(name), *[0] * 8]) + name
    tables = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in ((0xDB, quantisation), (0xC4, huffman))
    )
    return data[:2] + tables + data[2:] + name + person.number.encode()


def palette_image(person: Person, seed: int) -> Image.Image:
    image = Image.fromarray(tissue(seed) // 4)
    image.putpalette(bytes(range(96)) * 2 + (person.full + person.number).encode("utf-8").ljust(576, b"-")[:576])
    return image


def png(person: Person, seed: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Title", person.full, zip=True)
    info.add_text("Comment", f"{person.number} {person.birth}", zip=True)
    out = io.BytesIO()
    palette_image(person, seed).save(
        out, "PNG", pnginfo=info, exif=exif_of(person), icc_profile=profile_with(person.surname), bits=8
    )
    return out.getvalue() + person.full.encode("utf-8")


def gif(person: Person, seed: int) -> bytes:
    out = io.BytesIO()
    palette_image(person, seed).save(out, "GIF", comment=person.full.encode("utf-8"), optimize=False)
    return out.getvalue()


def webp(person: Person, seed: int) -> bytes:
    """EXIF, XMP, and a name inside the chunk of the picture, behind its last partition."""
    out = io.BytesIO()
    Image.fromarray(tissue(seed)).convert("RGB").save(out, "WEBP", exif=exif_of(person), xmp=person.full.encode())
    data = out.getvalue()
    at = data.index(b"VP8 ")
    length = struct.unpack_from("<I", data, at + 4)[0]
    name = person.full.encode("utf-8") + person.number.encode()
    body = data[at + 8 : at + 8 + length] + name + b"\0" * (len(name) % 2 + length % 2)
    rest = data[at + 8 + length + length % 2 :]
    inside = data[8:at] + b"VP8 " + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) + rest
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def bmp(person: Person, seed: int) -> bytes:
    """A name between the header and the pixels, and in unused colours."""
    out = io.BytesIO()
    palette_image(person, seed).save(out, "BMP")
    data, name = out.getvalue(), (person.full + person.number).encode("utf-8")
    start = struct.unpack_from("<I", data, 10)[0]
    moved = data[:2] + struct.pack("<IHHI", len(data) + len(name), 0, 0, start + len(name)) + data[14:start]
    return moved + name + data[start:]


def tiff(person: Person, seed: int) -> bytes:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :64] = np.arange(64) * 1000
    name = np.frombuffer((person.full + person.number).encode("utf-16-le"), "<u2")
    colours[0, 100 : 100 + len(name)] = name
    out = io.BytesIO()
    text = person.full.encode("ascii", "replace").decode()
    tifffile.imwrite(
        out, tissue(seed) // 4, photometric="palette", colormap=colours, description=text, software=person.number,
        extratags=[(315, "s", 0, text, True), (37510, "B", 16, person.full.encode("utf-8").ljust(16)[:16], True)],
    )  # fmt: skip
    return out.getvalue()


KINDS = {"dcm": palette_cine, "jpg": jpeg, "png": png, "gif": gif, "webp": webp, "bmp": bmp, "tif": tiff}


def plant(folder: Path, people: tuple[Person, ...] = PEOPLE) -> Study:
    """A study with all kinds of files of each person in a folder of that name, and a table with all columns."""
    rows = []
    for i, person in enumerate(people):
        here = folder / "images" / f"{person.surname}_{person.given}"
        here.mkdir(parents=True)
        for ending, make in KINDS.items():
            name = f"{person.surname}-{person.birth}-{ending}.{ending}"
            (here / name).write_bytes(make(person) if ending == "dcm" else make(person, i))  # type: ignore[operator]
            rows.append(
                {
                    "file": f"{here.name}/{name}",
                    "mrn": person.number,
                    "name": f"{person.surname} {person.given}",
                    "born": person.birth,
                    "Operateur": STAFF[i % 6],
                    "remarks": f"called {person.given} {person.surname} on {person.birth}, wants the result {i}",
                    "cancer": ["yes", "no"][i % 2],
                    "device": ["a", "b"][i % 2],
                }
            )
    pd.DataFrame(rows).to_csv(folder / "clinical.csv", index=False)
    (folder / "study.yaml").write_text(
        "images: images\ntable: clinical.csv\nimage: file\npatient: mrn\noutcome: {cancer: binary}\n"
        "acquisition: {device: categorical, Operateur: categorical, header_operator: categorical, "
        "header_software: categorical}\n",
        encoding="utf-8",
    )
    return load_study(folder, ["scan.workers=1"])


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and of what is packed in it."""
    data = path.read_bytes()
    if path.suffix == ".html":  # without the plotting library, whose short names are everybody's
        parts = re.split(rb"(?=<script)|(?<=</script>)", data)
        data = b"".join(part for part in parts if not part.startswith(b"<script") or len(part) < 400_000)
        assert len(data) < 10**6
    yield data
    if path.suffix == ".png":
        for match in re.finditer(rb"IDAT|iCCP|zTXt|iTXt", data):
            length = struct.unpack_from(">I", data, match.start() - 4)[0]
            body = data[match.end() : match.end() + length]
            for start in range(min(8, len(body))):
                try:
                    yield zlib.decompressobj().decompress(body[start:])
                except zlib.error:
                    continue
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode("utf-8")
    if path.suffix == ".dcm":
        for element in pydicom.dcmread(path).iterall():
            yield f"{element.value}".encode() if element.keyword != "PixelData" else b""


def leaks(paths: list[Path], root: Path, words: list[str], short: list[str]) -> list[str]:
    """Words that are found in files or in their names, in any encoding and case."""
    found = []
    patterns = {
        form: word
        for word in words
        for spelled in {word, word.lower(), word.upper()}
        for encoding in ENCODINGS
        if (form := spelled.encode(encoding, "ignore")) and form.decode(encoding, "ignore") == spelled and len(form) > 3
    }
    for path in paths:
        name = path.relative_to(root).as_posix()
        for data in [name.encode(), *contents(path)]:
            if path.suffix in _TEXT:  # UTF-8, and large
                low = data.decode("utf-8", "ignore").casefold()
                found += [f"{name}: {word}" for word in words if word.casefold() in low]
            else:
                found += [f"{name}: {word}" for form, word in patterns.items() if form in data]
            if path.suffix in {*_TEXT, ".dcm"}:
                text = data.decode("utf-8", "ignore")
                found += [
                    f"{name}: {word}"
                    for word in short
                    if re.search(rf"(?<![A-Za-z0-9+/=]){word}(?![A-Za-z0-9+/=])", text)
                ]
    return sorted(set(found))


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def identifiers(people: tuple[Person, ...]) -> tuple[list[str], list[str]]:
    return [*{w for p in people for w in p.long}, *STAFF_WORDS], [*{w for p in people for w in p.short}]


@pytest.fixture
def study(own_phantom: Path) -> Study:
    return load_study(own_phantom, ["scan.workers=1"])


@pytest.fixture
def key(tmp_path: Path) -> Linkage:
    return Linkage(tmp_path / "none", "s", "i", bytes(range(32)), {"17": "PABC"})


@pytest.fixture(scope="session")
def planting() -> SimpleNamespace:
    """The people, and the functions that plant and search."""
    return SimpleNamespace(
        people=PEOPLE, kinds=len(KINDS), person=Person, plant=plant, leaks=leaks, identifiers=identifiers,
        files_below=files_below,
    )  # fmt: skip
