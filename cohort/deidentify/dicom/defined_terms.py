"""Words that coded strings (VR CS) may consist of, and the meanings of public codes (PS3.3, PS3.6, PS3.16)."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_MOST_LETTERS = 2  # single ones in a value: letter by letter one could write a name

_TERMS = frozenset(
    str.split(
        """YES NO NONE OTHER UNKNOWN UNSPECIFIED CR CT MR US OT DX MG NM PT XA RF SC OP OPT OCT IVOCT IVUS ES GM SM XC
    IO PX RG TG BI BMD DG DM LS MA PR SR SEG KO VL DV DI DF SYN WSD SI SD FPO LIN LOG DISP HU OD ED EDW DS DRW
    SCR ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BLADDER BONE BRAIN BREAST BRONCHUS
    BUTTOCK CALCANEUS CALF CAROTID CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CHOROIDPLEXUS CIRCLEOFWILLIS
    CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID
    FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM IAC JAW
    JAWREGION JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK
    NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX
    PROSTATE RADIUS RADIUSULNA RECTUM RETINA RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SIJOINT SKIN SKULL SPINE
    SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA
    TLSPINE TOE TONGUE TRACHEA TSPINE ULNA UMBILICAL URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
    JOINT LEFT RIGHT LT RT UPPER LOWER EXT BOTH BILATERAL HFS HFP HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS
    AFDR AFDL PFDR PFDL AP PA LL RL RLD LLD RLO LLO LAO RAO LPO RPO CC MLO ML LM LMO LMB XCC XCCL XCCM FB SIO
    SIO ISO CV LATERAL LAT OBL OBLIQUE AXIAL SAGITTAL CORONAL TRANSVERSE FRONTAL PRESENTATION PROCESSING
    GEOMETRY FIDUCIAL LINEAR EXACT SIGMOID INVERSE IDENTITY COLOR MONOCHROME TRUE MIXED VOLUME SAMPLED DISTORTED
    ISO CW CCW SE IR GR EP RM SK MTC SS TRSS SP MP OSP ROW COL COLUMN SECTOR PHASED MECHANICAL ANNULAR CURVED
    ARRAY CIRCULAR INTRAVASCULAR ORIGINAL DERIVED PRIMARY SECONDARY DRAWING SCANNED FILM IMAGE DIGITIZED
    WORKSTATION DIRECT SCINTILLATOR STORAGE FILMSCREEN AREA SLOT CARM COLUMNAR MAMMOGRAPHIC PANORAMIC
    CEPHALOSTAT RIGID VERTICAL RECTANGLE ROUND HEXAGONAL MANUAL AUTOMATIC FIXED FOCUSED RECIPROCATING PARALLEL
    CROSSED IN MOLYBDENUM RHODIUM SILVER TUNGSTEN COPPER ALUMINUM ALUMINIUM TIN LEAD STRIP WEDGE BUTTERFLY
    MULTIPLE FLAT SMALL LARGE BODY MEDIUM FILTER AIR SHARP SOFT STANDARD AXIAL HELICAL HELIX HELI MODE SCAN AX
    FS FAST GEMS GE PFP PFF FC RG CG PPG SAT FSS ACC PER GEMS EDR FILTERED TRF VB RENAL CARDIAC GATED RESP TOMO
    ULTRAFAST SPIRAL SEQUENCE DUAL ENERGY HYDROGEN
        MONOCHROME1 MONOCHROME2 RGB YBR FULL PARTIAL ICT RCT PALETTE CMYK BOWTIE FIL RTDOSE RTIMAGE RTSTRUCT RTPLAN"""
    )
)
_PATTERNS = (
    re.compile(r"[ALPRFH]{1,3}"),
    re.compile(r"\d{1,3}"),
    re.compile(r"[123]D"),
    re.compile(r"10918|14495|15444"),
)
_TOKENS = re.compile(r"[^\W_]+")


def is_defined(value: str) -> bool:
    """Whether a coded string consists of terms that the standard or makers define; a name never does."""
    tokens = _TOKENS.findall(value.strip().upper())
    letters = sum(len(token) == 1 for token in tokens)
    return letters <= _MOST_LETTERS and all(
        len(token) == 1 or {token, token.rstrip("0123456789")} & _TERMS or any(p.fullmatch(token) for p in _PATTERNS)
        for token in tokens
    )


def meaning_of(scheme: str, code: str) -> str:
    """The meaning of a code by the tables of the standard; empty for a code that is not in them."""
    return _meanings().get((scheme, code), "")


@cache
def _meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    found: dict[tuple[str, str], str] = {}
    tables: Any = concepts
    for scheme, by_keyword in tables.items():
        for codes in by_keyword.values():
            for code, (meaning, _) in codes.items():
                known = found.setdefault((scheme, code), meaning)
                found[scheme, code] = min(known, meaning, key=len)  # `Breast` rather than `Breast structure (…)`
    for old, new in mapping["SRT"].items():  # SNOMED RT codes, under both of their designators
        if ("SCT", new) in found:
            found["SRT", old] = found["SNM3", old] = found["SCT", new]
    return found
