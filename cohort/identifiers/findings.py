"""What may name a patient: in headers, in file names, burned into the pixels; found in the one pass, removed
elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR
from pydicom.tag import BaseTag

# Findings that name a person or lead straight to one. The others are in the Basic Profile as well, and go when a study
# is de-identified, but a file that has them names nobody by itself.
IDENTITY = frozenset(
    {
        "dicom_name",
        "dicom_id",
        "dicom_birth_date",
        "dicom_address",
        "dicom_physician",
        "dicom_operator",
        "dicom_burned_in_flag",
        "name_patient_id",
        "name_person",
    }
)

# The attributes of PS3.15 Table E.1-1 by what they are called; the first that fits decides. With the rules on value
# representations in `attribute_kind` they cover the table's edition 2026c.
_KINDS = (
    ("dicom_birth_date", r"Birth(Date|Time)"),
    ("dicom_operator", r"Operator"),
    ("dicom_institution", r"ClinicalTrial|Institution|Department|EthicsCommittee|Organization|Location|TreatmentSite"),
    ("dicom_address", r"Address|Telephone|Phone|Telecom|Residence|^GPS"),
    ("dicom_physician", r"Physician|Performer|Observer|Participant|ContentCreator|Approver|Interpreter|Creator|"
     r"Recipients|DistributionList|RequestingService|VerbalSource|PersonIdentification|TopicAuthor|Entity(Name|L)"),
    ("dicom_name", r"PatientName|PatientMother|CameraOwner|^PatientPhoto|ReferencedPatientPhoto|DistributionName"),
    ("dicom_id", r"Patient(ID|s?Ident)|OtherPatient|PatientAlias|ReferencedPatientSequence|Accession|Admission|Issuer|"
     r"Insurance|Military|BranchOfService|MedicalRecord|OrderNumber|(Study|Results|Interpretation|Procedure|Step)ID|"
     r"ServiceEpisode|Specimen|Container|Barcode|SlideIdentifier|Confidentiality|RequestAttributes|DigitalSignature|"
     r"Certificate|Certified|^MAC$|InstanceMAC"),
    ("dicom_characteristic", r"Patient(Sex|Age|Size|Weight|Religi|State|Primary|Transport|Setup|Treatment)|Smoking|"
     r"Pregnancy|Ethnic|Occupation|Allergies|Medical|SpecialNeeds|PreMedication|LabelText"),
    ("dicom_device", r"Station|Device|Serial|Detector|GantryID|GeneratorID|PlateID|CassetteID|AE$|AETitle|NetworkID|"
     r"ModifyingSystem|SourceManufacturer|^Lens|TreatmentMachine|Slot|UDI|XRaySource|TransducerIdent|Originator"),
    ("dicom_comment", r"Description|Comment|Label|Title|Keywords|Subject|Text|Notes|Reason|Narrative|Impressions|"
     r"Diagnos|ProtocolName|Name$|Agent|Sequence$|Values?$|Arbitrary|MakerNote|Flow|Padding|Document|Origin|Source|Timezone"),
)  # fmt: skip

_NO_FINDING = frozenset(
    {"PatientIdentityRemoved", "ManufacturerModelName", "ScanningSequence", "CodeValue", "DetectorType",
     "DetectorConfiguration", "SourceType"}
)  # fmt: skip

_FREE_TEXT = frozenset({"LT", "ST", "UT"})

# Sequences that describe how it was taken are looked into; the frames of a large enhanced file are not, for their
# number.
_NOT_WALKED = frozenset({0x52009229, 0x52009230})

# A value is a placeholder only if all its words are: `Testa`, `Casey` and `NA00012` begin like one and name a patient.
_PLACEHOLDER = re.compile(
    r"anon|anon[yi]m[a-z]*|de|deid|deidentified|identified|removed|deleted|redacted|masked|unknown|unbekannt|inconnu|"
    r"none|null|nil|no|name|noname|na|n|a|nn|x{2,}|test|phantom|patient|subject|case|research|pseudo|pseudonym[a-z]*|"
    r"id|dummy|\d{1,3}"
)
_NO_PERSON_WORDS = frozenset({"n", "a", "no", "de", "id", "name", "identified"})  # only in: n/a, no name, de-id …

_NAME_PART = re.compile(r"[^\W\d_][^\W\d_'’.-]+")

_STANDARD_UID = b"1.2.840.10008."


def dicom_findings(dataset: pydicom.Dataset, *, believe: bool = True) -> tuple[str, ...]:
    """Which kinds of attributes of the Basic Profile (PS3.15 Table E.1-1) hold a value, nested ones included.

    What says nothing is not counted: empty values, UIDs of the standard itself, a name or id that is a placeholder
    (`Anonymous`). A file that states PatientIdentityRemoved = YES is believed, but
    for a name of two words, a birth date, an address and BurnedInAnnotation = YES.

    Args:
        dataset: a file, or an item of a sequence.
        believe: False counts everything that holds a value, whatever the file says of itself.

    Returns:
        Sorted names of kinds; those in `IDENTITY` name a person.
    """
    found: set[str] = set()
    for kind, keyword, value in _attributes(dataset):
        if kind not in found and not (believe and keyword in {"PatientName", "PatientID"} and _says_nobody(value)):
            found.add(kind)
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        found.add("dicom_burned_in_flag")
    if believe and str(dataset.get("PatientIdentityRemoved", "")).strip().upper() == "YES":
        believed = {"dicom_birth_date", "dicom_address", "dicom_burned_in_flag"} & found
        parts = re.split(r"[\^\s,=]+", str(dataset.get("PatientName", "")))
        if "dicom_name" in found and sum(bool(_NAME_PART.fullmatch(part)) for part in parts) > 1:
            believed.add("dicom_name")
        return tuple(sorted(believed))
    return tuple(sorted(found))


def tags_in(dataset: pydicom.Dataset) -> list[BaseTag]:
    """The tags of a dataset; iterating over the dataset itself would convert the value of each element."""
    return list(dataset.keys())


def _attributes(dataset: pydicom.Dataset) -> Iterator[tuple[str, str, bytes]]:
    """Kind, keyword and value of each attribute of a kind; values are not converted, which would cost most of the
    time."""
    for tag in tags_in(dataset):
        number = int(tag)
        kind, keyword, vr = attribute_kind(number)
        if vr == "SQ":
            if number not in _NOT_WALKED:
                items = dataset[tag].value or []
                if kind and len(items):
                    yield kind, keyword, b""
                for item in items:
                    yield from _attributes(item)
        elif kind:
            raw = dataset.get_item(tag)
            value = raw.value if raw is not None else None
            plain = value if isinstance(value, bytes) else str(value if value is not None else "").encode()
            plain = plain.strip(b" \0^")
            if plain and not (vr == "UI" and plain.startswith(_STANDARD_UID)):
                yield kind, keyword, plain


@cache
def attribute_kind(tag: int) -> tuple[str, str, str]:
    """Kind of finding (empty: none), keyword and value representation of a tag."""
    group = tag >> 16
    if group % 2:
        return "dicom_private_tags", "", "UN"
    if 0x5000 <= group <= 0x501E or 0x6000 <= group <= 0x601E:
        return "dicom_overlay", "", "UN"
    if not dictionary_has_tag(tag) or group in {0x0002, 0x0028, 0x7FE0}:
        return "", "", "UN"
    keyword, vr = dictionary_keyword(tag), dictionary_VR(tag)
    if keyword in _NO_FINDING:
        return "", keyword, vr
    if vr in {"DA", "DT", "TM"}:
        return ("dicom_birth_date" if "Birth" in keyword else "dicom_date"), keyword, vr
    if vr == "UI":
        return "dicom_uid", keyword, vr
    for kind, pattern in _KINDS:
        if re.search(pattern, keyword) and (vr != "SQ" or kind in IDENTITY):
            # what is called a name or a comment is one only as text; numbers are measurements
            return (kind if vr not in {"US", "SS", "FL", "FD", "UL", "SL", "IS", "DS", "AT"} or "GPS" in keyword
                    or kind == "dicom_characteristic" else ""), keyword, vr  # fmt: skip
    if vr == "PN":
        return "dicom_physician", keyword, vr
    return ("dicom_comment" if vr in _FREE_TEXT else ""), keyword, vr


def _says_nobody(value: bytes) -> bool:
    """Whether a name or id has no letters, or consists of placeholders as whole words (and a short number)."""
    words = re.findall(r"[^\W_]+", value.decode("latin-1").casefold())
    if not any(word[0].isalnum() for word in words):
        return True
    if words[0] in _NO_PERSON_WORDS and "".join(words) not in {"na", "noname", "deid", "deidentified"}:
        return False
    return all(_PLACEHOLDER.fullmatch(word) for word in words) and not all(word.isdigit() for word in words)


_WORDS = re.compile(r"[^\W_]+")

_DATE_IN_NAME = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-_.](?:0?[1-9]|1[0-2])[-_.](?:19|20)\d\d)(?!\d)"
)

_UID_IN_NAME = re.compile(r"\d+(?:\.\d+){5,}")

_SHORTEST_ID = 4


def _alike(text: str) -> str:
    """Text without capitals and in one Unicode form: a Mac writes the `ü` of a file name as two characters."""
    return unicodedata.normalize("NFC", text).casefold()


def name_findings(
    image_ids: Sequence[str], patient_ids: Sequence[str | None], names: Sequence[str | None] | None = None
) -> list[tuple[str, ...]]:
    """What the file and folder names of images give away.

    `name_patient_id`: an id of any patient of the study, as whole words in a row; an id shorter than four characters
    counts only as the whole name of a folder or file. `name_person`: two words of one patient's name side by side, or
    the surname of the image's own patient. `name_date`: a full date (20190504, 2019-05-04, 4.5.2019), not inside a UID.

    Time and memory grow with the number of images plus the number of patients.

    Args:
        image_ids: posix paths.
        patient_ids: own id of the patient of each image, None where it is not known.
        names: name of the patient of each image (DICOM's `Surname^Given`, or from the table), None where unknown.

    Returns:
        Sorted kinds for each image.
    """
    ids_by_length: dict[int, set[tuple[str, ...]]] = {}
    short: set[str] = set()
    for patient in set(patient_ids) - {None, ""}:
        words = tuple(_WORDS.findall(_alike(str(patient))))
        if len("".join(words)) < _SHORTEST_ID:
            short.add(_alike(str(patient)))
        elif words:
            ids_by_length.setdefault(len(words), set()).add(words)
    people = [tuple(_WORDS.findall(_alike(name or ""))) for name in names or [None] * len(image_ids)]
    pairs = {frozenset(pair) for person in set(people) for pair in pairwise(person)}
    found = []
    for image_id, person in zip(image_ids, people, strict=True):
        kinds = set()
        parts = _alike(image_id).split("/")
        parts[-1] = parts[-1].rpartition(".")[0] or parts[-1]
        for part in parts:
            words = tuple(_WORDS.findall(part))
            if part in short or any(
                words[start : start + length] in ids
                for length, ids in ids_by_length.items()
                for start in range(len(words) - length + 1)
            ):
                kinds.add("name_patient_id")
            if any(frozenset(pair) in pairs for pair in pairwise(words)) or (
                person and len(person[0]) >= _SHORTEST_ID and not person[0].isdigit() and person[0] in words
            ):
                kinds.add("name_person")
            if _DATE_IN_NAME.search(part) and not _UID_IN_NAME.search(part):
                kinds.add("name_date")
        found.append(tuple(sorted(kinds)))
    return found
